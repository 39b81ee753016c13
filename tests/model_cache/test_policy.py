"""Version policies: which versions they offer, and the two spellings in which people write them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_cache.policy import MAX_VERSION, All, Latest, Specific, VersionPolicy, parse_policy


def specific(*versions: int) -> Specific:
    return Specific(frozenset(versions))


@pytest.mark.parametrize(
    ("policy", "offers", "candidates"),
    [
        (All(), [2, 3, 5, 10], [10, 5, 3, 2]),
        (Latest(), [10], [10, 5, 3, 2]),
        (Latest(2), [5, 10], [10, 5, 3, 2]),
        (Latest(100), [2, 3, 5, 10], [10, 5, 3, 2]),
        # Version 4 may come later.
        (specific(3, 2, 4), [2, 3], [3, 2]),
        (specific(4), [], []),
    ],
    ids=str,
)
def test_what_a_policy_offers_and_what_it_answers_with(
    policy: VersionPolicy, offers: list[int], candidates: list[int]
) -> None:
    assert policy.offers([5, 2, 10, 3]) == offers
    assert policy.candidates([5, 2, 10, 3]) == candidates
    assert policy.offers([]) == policy.candidates([]) == []


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        # OpenVINO Model Server
        ('{"latest": {"num_versions": 2}}', Latest(2)),
        ('{"latest": {"num_versions": 1}}', Latest(1)),
        ('{"all": {}}', All()),
        ('{"specific": {"versions": [1, 3]}}', specific(1, 3)),
        (' \n{"specific":{"versions":[3,1]}}\n', specific(1, 3)),
        ('{"model_version_policy": {"all": {}}}', All()),
        # TensorFlow Serving
        ("latest { num_versions: 2 }", Latest(2)),
        ("latest{num_versions:2}", Latest(2)),
        ("latest: { num_versions: 2, }", Latest(2)),
        ("latest {}", Latest(1)),
        ("all {}", All()),
        ("all: {}", All()),
        ("specific { versions: 1 versions: 3 }", specific(1, 3)),
        ("specific { versions: 1, versions: 3; }", specific(1, 3)),
        ("specific: { versions: [1, 3] }", specific(1, 3)),
        ("specific { versions: [1, 3] versions: 5 }", specific(1, 3, 5)),
        ("specific { versions: 1 versions: 1 }", specific(1)),
        (f"specific {{ versions: {MAX_VERSION} }}", specific(MAX_VERSION)),
        ("model_version_policy { specific { versions: 1 } }", specific(1)),
        ("model_version_policy: {\n\tspecific: {\n\t\tversions: 2\n\t\tversions: 3\n\t}\n}\n", specific(2, 3)),
        ("# the two that count\nlatest { # newest\n num_versions: 2 }  # end", Latest(2)),
    ],
    ids=str,
)
def test_both_spellings_are_read(text: str, policy: VersionPolicy) -> None:
    assert parse_policy(text) == policy


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "it has 0 policies"),
        ("{}", "it has 0 policies"),
        ("model_version_policy {}", "it has 0 policies"),
        ('{"newest": {}}', "'newest' is no policy"),
        ("newest {}", "'newest' is no policy"),
        ("latest", "the end follows 'latest'"),
        ("latest 2", "'2' follows 'latest'"),
        ("latest: 2", "latest is 2, which has no fields"),
        ('{"latest": 2}', "latest is 2, which has no fields"),
        ('{"latest": {"num_versions": 0}}', "num_versions is 0; want 1 or more"),
        ("latest { num_versions: 0 }", "num_versions is 0; want 1 or more"),
        ("latest { num_versions: -1 }", "num_versions is -1; want 1 or more"),
        ("latest { num_versions: 1.5 }", "is where '}' should be"),
        ("latest { num_versions: 007 }", "'007' is no integer of 64 bits"),
        ("latest { num_versions: 0x2 }", "'0x2' is no integer of 64 bits"),
        ("latest { num_versions: }", "'}' is no integer of 64 bits"),
        ("latest { num_versions 2 }", "'2' follows 'num_versions'"),
        ("latest { num_versions: [2] }", r"\[2\] is no integer"),
        ('latest { num_versions: "2" }', "is no integer of 64 bits"),
        ('{"latest": {"num_versions": 1.0}}', "'1.0' is no integer of 64 bits"),
        ('{"latest": {"num_versions": NaN}}', "'NaN' is no integer of 64 bits"),
        ('{"latest": {"num_versions": true}}', "True is no integer"),
        ('{"latest": {"num_versions": "2"}}', "'2' is no integer"),
        ('{"latest": {"num_versions": null}}', "None is no integer"),
        ('{"latest": {"versions": [2]}}', "latest has no field 'versions'"),
        ("latest { num_versions: 1 extra: 2 }", "latest has no field 'extra'"),
        ("latest { num_versions: 1 num_versions: 2 }", "'num_versions' is given twice"),
        ('{"latest": {"num_versions": 1, "num_versions": 2}}', "'num_versions' is given twice"),
        ("latest {} latest {}", "'latest' is given twice"),
        ('{"all": {}, "all": {}}', "'all' is given twice"),
        ("latest {} all {}", "it has 2 policies"),
        ('{"latest": {"num_versions": 1}, "all": {}}', "it has 2 policies"),
        ("model_version_policy { all {} } model_version_policy { all {} }", "'model_version_policy' is given twice"),
        ("model_version_policy { model_version_policy { all {} } }", "'model_version_policy' is no policy"),
        ("model_version_policy { all {} } latest {}", "it has 2 policies"),
        ("all { versions: 1 }", "all has no field 'versions'"),
        ("specific {}", "versions is empty; want one or more"),
        ("specific { versions: [] }", "versions is empty; want one or more"),
        ('{"specific": {"versions": []}}', "versions is empty; want one or more"),
        ('{"specific": {"versions": 1}}', "versions is 1, which is no list"),
        ('{"specific": {"versions": [-1, 0]}}', "versions is empty; want one or more"),
        ("specific { versions: 0 }", "0 is no version; want 1 to 9223372036854775807"),
        ("specific { versions: -3 }", "-3 is no version"),
        ("specific { versions: 9223372036854775808 }", "9223372036854775808 is no version"),
        ("specific { versions: 99999999999999999999 }", "'99999999999999999999' is no integer of 64 bits"),
        ("specific { versions: [1, ] }", "']' is no integer of 64 bits"),
        ("specific { versions: [1 3] }", "'3' is where ',' should be"),
        ("specific { versions: [1, 3 }", "'}' is where ',' should be"),
        ("specific { versions: {} }", "{} is no integer"),
        ("specific { versions: 1", "the end is where '}' should be"),
        ("all {} }", "'}' is where the end should be"),
        ("all {} junk", "the end follows 'junk'"),
        ("all {},,", "',' is where the end should be"),
        ('{"all": {}} junk', "Extra data"),
        ('{"all": {}', "delimiter"),
        ("[1, 2]", r"'\[' is where the end should be"),
        ("2", "'2' is where the end should be"),
        ('"all"', "is where the end should be"),
        ("ａｌｌ {}", "'ａ' is where the end should be"),
        ('{"a":' * 1500 + "1" + "}" * 1500, "too deeply nested"),
        ("a{" * 4000, "too deeply nested"),
        ("latest { num_versions: " + "9" * 5000 + " }", "is no integer of 64 bits"),
        ('{"latest": {"num_versions": ' + "9" * 5000 + "}}", "is no integer of 64 bits"),
        ("x" * 5000 + " {}", "is no policy"),
        (" " * 10_000 + "all {}", "it has 10006 characters; want 10000 at most"),
    ],
    ids=lambda text: text[:40],
)
def test_anything_else_is_refused_with_a_reason(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as refusal:
        parse_policy(text)
    message = str(refusal.value)
    assert message.startswith("cannot read the version policy ")
    assert "; want latest { num_versions: N }, all {} or specific { versions: [N, ...] }" in message
    assert "\n" not in message
    assert len(message) < 500


@pytest.mark.parametrize(
    "make", [lambda: Latest(0), lambda: Latest(-1), specific, lambda: specific(0), lambda: specific(1, 2**63)]
)
def test_a_policy_that_names_no_versions_cannot_be_made(make: Callable[[], VersionPolicy]) -> None:
    with pytest.raises(ValueError, match="want"):
        make()


NUMBERS = st.integers(1, MAX_VERSION)
POLICIES = st.one_of(
    st.just(All()), st.builds(Latest, NUMBERS), st.builds(Specific, st.frozensets(NUMBERS, min_size=1, max_size=20))
)


def as_json(policy: VersionPolicy) -> str:
    match policy:
        case Latest(num_versions):
            return json.dumps({"latest": {"num_versions": num_versions}})
        case Specific(versions):
            return json.dumps({"specific": {"versions": list(versions)}})
        case _:
            return json.dumps({"all": {}})


def as_text(policy: VersionPolicy) -> str:
    match policy:
        case Latest(num_versions):
            return f"latest {{ num_versions: {num_versions} }}"
        case Specific(versions):
            return f"specific {{ {' '.join(f'versions: {version}' for version in versions)} }}"
        case _:
            return "all { }"


def as_list(policy: VersionPolicy) -> str:
    match policy:
        case Specific(versions):
            return f"model_version_policy: {{specific: {{versions: {list(versions)}}}}}"
        case _:
            return f"model_version_policy {{{as_text(policy)}}}"


@given(POLICIES, st.sampled_from([as_json, as_text, as_list]))
def test_a_policy_that_is_written_down_is_read_back(
    policy: VersionPolicy, write: Callable[[VersionPolicy], str]
) -> None:
    assert parse_policy(write(policy)) == policy


PIECES = st.sampled_from(
    [
        *("latest", "all", "specific", "model_version_policy", "num_versions", "versions", "1", "-1", "007", "1.5"),
        *("{", "}", "[", "]", ":", ",", ";", "#", "\n", " ", '"', '"latest"', '"all"', "\0", "é", "\\"),
    ]
)


@given(st.text() | st.lists(PIECES, max_size=15).map(" ".join) | st.lists(PIECES, max_size=15).map("".join))
def test_no_text_is_anything_but_a_policy_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(parse_policy(text), Latest | All | Specific)


@given(POLICIES, st.frozensets(st.integers(0, MAX_VERSION)))
def test_what_is_offered_is_there_and_may_answer(policy: VersionPolicy, numbers: frozenset[int]) -> None:
    offers, candidates = policy.offers(numbers), policy.candidates(numbers)
    assert set(offers) <= set(candidates) <= numbers
    assert offers == sorted(offers)
    assert candidates == sorted(candidates, reverse=True)


def test_versions_that_cannot_be_are_passed_over_as_openvino_model_server_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert parse_policy('{"specific": {"versions": [0, -1, 1]}}') == Specific(frozenset({1}))
    assert caplog.messages == ["the version policy names [-1, 0], which are passed over; want 1 or more"]
