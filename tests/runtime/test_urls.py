"""TensorFlow Serving's URLs. Cases marked T are in its own tests, those marked C were read from its code."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import InvalidRequest
from runtime.urls import Target, model_of, parse, path_of

INT64_MAX = (1 << 63) - 1

TARGETS = [
    # T
    ("POST", "/v1/models/foo:predict", Target("predict", "foo", None, None)),
    ("POST", "/v1/models/foo:classify", Target("classify", "foo", None, None)),
    ("POST", "/v1/models/foo:regress", Target("regress", "foo", None, None)),
    ("POST", "/v1/models/foo/versions/50:predict", Target("predict", "foo", 50, None)),
    ("POST", "/v1/models/foo/labels/some_label:predict", Target("predict", "foo", None, "some_label")),
    ("POST", "/v1/models/foo%2Fbar:predict", Target("predict", "foo/bar", None, None)),
    ("POST", "/v1/models/foo/labels/a%2Fb:regress", Target("regress", "foo", None, "a/b")),
    ("GET", "/v1/models/foo", Target("status", "foo", None, None)),
    ("GET", "/v1/models/foo/metadata", Target("metadata", "foo", None, None)),
    ("GET", "/v1/config", Target("config", "", None, None)),
    ("POST", "/v1/config/reload", Target("reload", "", None, None)),
    ("GET", "/v1/coldstart", Target("coldstart", "", None, None)),
    ("GET", "/v1/coldstart.svg", Target("coldstart.svg", "", None, None)),
    ("GET", "/v1/models/foo/versions/50", Target("status", "foo", 50, None)),
    ("GET", "/v1/models/foo/versions/50/metadata", Target("metadata", "foo", 50, None)),
    ("GET", "/v1/models/foo/labels/l", Target("status", "foo", None, "l")),
    ("GET", "/v1/models/foo/labels/l/metadata", Target("metadata", "foo", None, "l")),
    # C. The path's case does not count, the verb's does; METADATA is the status.
    ("POST", "/V1/MODELS/Foo/VERSIONS/1:predict", Target("predict", "Foo", 1, None)),
    ("POST", "/v1/Models/foo/Labels/L:classify", Target("classify", "foo", None, "L")),
    ("GET", "/v1/MODELS/foo/METADATA", Target("status", "foo", None, None)),
    # Decoded once, after the match.
    ("POST", "/v1/models/a%3Ab:predict", Target("predict", "a:b", None, None)),
    ("POST", "/v1/models/a%252Fb:predict", Target("predict", "a%2Fb", None, None)),
    ("POST", "/v1/models/%2f%2F:predict", Target("predict", "//", None, None)),
    ("POST", "/v1/models/a+b:predict", Target("predict", "a+b", None, None)),
    ("POST", "/v1/models/100%:predict", Target("predict", "100%", None, None)),
    ("POST", "/v1/models/%e6%a8%a1:predict", Target("predict", "模", None, None)),
    ("POST", "/v1/models/%FF:predict", Target("predict", "\ufffd", None, None)),
    ("GET", "/v1/models/a%3Fb%23c", Target("status", "a?b#c", None, None)),
    # What looks like a part of the path is a name where a name has to be.
    ("GET", "/v1/models/metadata", Target("status", "metadata", None, None)),
    ("GET", "/v1/models/versions", Target("status", "versions", None, None)),
    ("POST", "/v1/models/versions/versions/3:predict", Target("predict", "versions", 3, None)),
    ("POST", "/v1/models/foo/labels/7:predict", Target("predict", "foo", None, "7")),
    ("POST", "/v1/models/foo/versions/007:predict", Target("predict", "foo", 7, None)),
    ("POST", "/v1/models/foo/versions/0:predict", Target("predict", "foo", 0, None)),
    ("POST", f"/v1/models/foo/versions/{'0' * 5000}7:predict", Target("predict", "foo", 7, None)),
    ("GET", f"/v1/models/foo/versions/{INT64_MAX}", Target("status", "foo", INT64_MAX, None)),
    # Our own.
    ("GET", "/v1/cache", Target("cache", "", None, None)),
]


@pytest.mark.parametrize(("method", "path", "target"), TARGETS)
def test_a_url_asks_for(method: str, path: str, target: Target) -> None:
    assert parse(method, path.encode()) == target


MALFORMED = [
    # T
    ("GET", "/v1/models/foo:predict"),
    ("POST", "/v1/models/foo"),
    ("POST", "/v1/models/foo/metadata"),
    ("POST", "/v1/models/foo:test"),
    ("POST", "/v1/models/foo/versions/string:predict"),
    ("GET", "/v1/models/foo/versions/string"),
    ("POST", "/v1/models/foo/versions/1/labels/l:predict"),
    ("GET", "/v1/models/foo/versions/1/labels/l"),
    ("GET", "/v1/models/foo/labels/l/versions/1"),
    # C
    *((method, "/v1/models/foo:predict") for method in ("PUT", "PATCH", "DELETE", "HEAD", "TRACE", "post", "BREW")),
    *((method, "/v1/models/foo") for method in ("PUT", "PATCH", "DELETE", "HEAD", "get")),
    ("POST", "/v1/models/foo:PREDICT"),
    ("POST", "/v1/models/foo:Predict"),
    ("POST", "/v1/models/foo:predict/"),
    ("POST", "/v1/models/foo/:predict"),
    ("POST", "/v1/models/foo/versions/1/:predict"),
    ("POST", "/v1/models//versions/1:predict"),
    ("POST", "/v1/models/:predict"),
    ("POST", "/v1/models:predict"),
    ("POST", "/v1/models/a/b:predict"),
    ("POST", "/v1/models/a:b:predict"),
    ("POST", "/v1/models/foo%3Apredict"),
    ("POST", "/v1/models/foo/versions/:predict"),
    ("POST", "/v1/models/foo/versions/-1:predict"),
    ("POST", "/v1/models/foo/versions/+1:predict"),
    ("POST", "/v1/models/foo/versions/1.0:predict"),
    ("POST", "/v1/models/foo/versions/%31:predict"),
    ("POST", "/v1/models/foo/versions/%D9%A1:predict"),
    ("POST", "/v1/models/foo/labels/:predict"),
    ("POST", "/v1/models/foo/labels/a/b:predict"),
    ("POST", "/v1/models/foo/versions/1/versions/2:predict"),
    ("GET", "/v1/models/"),
    ("GET", "/v1/models/foo/"),
    ("GET", "/v1/models//metadata"),
    ("GET", "/v1/models/foo/metadata/"),
    ("GET", "/v1/models/foo/metadata/more"),
    ("GET", "/v1/models/foo/versions/1/"),
    ("GET", "/v1/models/foo:"),
    ("GET", "/v1/"),
    ("GET", "/v1/nothing"),
    ("GET", "/v1/cache/"),
    ("POST", "/v1/cache"),
    ("POST", "/v1/config"),
    ("GET", "/v1/config/reload"),
    ("HEAD", "/v1/cache"),
]


@pytest.mark.parametrize(("method", "path"), MALFORMED)
def test_a_malformed_url_is_quoted_as_it_came(method: str, path: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(method, path.encode())
    assert str(caught.value) == f"Malformed request: {method} {path}"


@pytest.mark.parametrize("number", [str(INT64_MAX + 1), "9" * 19, "1" + "0" * 19, "18446744073709551617"])
@pytest.mark.parametrize(
    ("method", "url"), [("POST", "/v1/models/m/versions/{}:predict"), ("GET", "/v1/models/m/versions/{}")]
)
def test_a_version_of_more_than_64_bits_is_no_number(number: str, method: str, url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(method, url.format(number).encode())
    assert str(caught.value) == f"Failed to convert version: {number} to numeric."


@pytest.mark.parametrize("path", ["/v1/models", "/V1/Models", "/v1/models/versions/3", "/v1/models/labels/a/metadata"])
def test_models_are_not_listed(path: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^Missing model name in request\.$"):
        parse("GET", path.encode())


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/" + "a" * 60_000),
        ("POST", "/v1/models/" + "a" * 60_000),
        ("GET", "/v1/models/m/versions/" + "9" * 60_000),
        ("G" * 60_000, "/v1/models/m"),
    ],
)
def test_a_message_quotes_no_more_than_a_piece(method: str, path: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(method, path.encode())
    assert 256 <= len(str(caught.value)) < 600


def test_a_message_is_text_whatever_came() -> None:
    with pytest.raises(InvalidRequest, match=r"^Malformed request: GET /v1/\ufffd\ufffd$"):
        parse("GET", b"/v1/\xff\xfe")


@given(name=st.text(min_size=1), label=st.text(min_size=1))
def test_any_name_and_label_arrive_as_they_were_meant(name: str, label: str) -> None:
    sent = f"/v1/models/{quote(name, safe='')}/labels/{quote(label, safe='')}:predict"
    assert parse("POST", sent.encode()) == Target("predict", name, None, label)


@given(st.text(max_size=30).map(lambda text: "/v1/models/" + text))
def test_the_path_of_a_server_that_only_gives_it_decoded_means_the_same(path: str) -> None:
    assert unquote(path_of({"path": path}).decode()) == path


def said(call: Callable[[], Target]) -> Target | str:
    try:
        return call()
    except InvalidRequest as exc:
        return str(exc)


@given(st.sampled_from(["GET", "POST"]), st.binary(max_size=60).map(lambda tail: b"/v1/models/" + tail))
def test_no_path_does_harm(method: str, path: bytes) -> None:
    answer = said(lambda: parse(method, path))
    str(answer).encode()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/models/a%2Fb:predict", "a/b"),
        ("/V1/Models/a/versions/1", "a"),
        ("/v2/models/a%2Fb:c/versions/1/infer", "a/b:c"),
        ("/v2/models/a", "a"),
        ("/v1/config", ""),
        ("/v2", ""),
        ("/V2/models/a", ""),
        ("/v1/models/", ""),
    ],
)
def test_the_model_that_a_path_is_about(path: str, name: str) -> None:
    assert model_of(path.encode()) == name
