"""Classify and regress in JSON: what each body means, which are refused and with which words, and the results.

Cases: ``ClassifyRegressRequestTest`` and ``ClassifyRegressnResultTest`` in TensorFlow Serving's
``util/json_tensor_test.cc``; texts: ``json_tensor.cc``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.codecs.json_examples import encode_classifications, encode_regressions, parse_examples
from runtime.errors import InvalidRequest
from runtime.examples import ScoredLabel
from runtime.signature import DEFAULT_SIGNATURE
from tests.runtime.codecs.specs import assert_all_same

Features = Mapping[str, NDArray[Any]]


def floats(*values: float) -> NDArray[Any]:
    return np.array(values, np.float32)


def ints(*values: int) -> NDArray[Any]:
    return np.array(values, np.int64)


def strings(*values: bytes) -> NDArray[Any]:
    return np.array(values, object)


def read(body: str | bytes) -> list[Features]:
    return list(parse_examples(body.encode() if isinstance(body, str) else body).examples)


ACCEPTED: list[tuple[str | bytes, list[Features]]] = [
    # RequestNoContext.
    (
        """{"examples": [
            {"names": ["foo", "bar"], "ratings": [8.0, 9.0], "age": 20}, {"names": ["baz"], "ratings": 6.0}
        ]}""",
        [
            {"names": strings(b"foo", b"bar"), "ratings": floats(8, 9), "age": ints(20)},
            {"names": strings(b"baz"), "ratings": floats(6)},
        ],
    ),
    # RequestWithContextAndSignature.
    (
        """{"signature_name": "custom_signture", "context": {"query": "pizza", "location": ["sfo"]}, "examples": [
            {"names": ["foo", "bar"], "ratings": [8.0, 9.0, NaN, Infinity], "age": 20},
            {"names": ["baz", {"b64": "aGVsbG8="}], "ratings": 6.0, "intboolmix": [1, true, false]},
            {"names": "bar", "ratings": -Infinity}
        ]}""",
        [
            {
                "query": strings(b"pizza"),
                "location": strings(b"sfo"),
                "names": strings(b"foo", b"bar"),
                "ratings": floats(8, 9, np.nan, np.inf),
                "age": ints(20),
            },
            {
                "query": strings(b"pizza"),
                "location": strings(b"sfo"),
                "names": strings(b"baz", b"hello"),
                "ratings": floats(6),
                "intboolmix": ints(1, 1, 0),
            },
            {
                "query": strings(b"pizza"),
                "location": strings(b"sfo"),
                "names": strings(b"bar"),
                "ratings": floats(-np.inf),
            },
        ],
    ),
    # An example's own feature counts, whatever its kind.
    (
        '{"context": {"a": 1, "b": 2}, "examples": [{"a": "x"}, {}]}',
        [{"a": strings(b"x"), "b": ints(2)}, {"a": ints(1), "b": ints(2)}],
    ),
    # A feature of no values has no kind; it hides the context's all the same.
    ('{"context": {"a": 1, "b": []}, "examples": [{"a": []}, {"c": []}]}', [{}, {"a": ints(1)}]),
    ('{"examples": [{}]}', [{}]),
    # rapidjson's kinds of numbers.
    ('{"examples": [{"a": [9223372036854775807, -9223372036854775808]}]}', [{"a": ints(2**63 - 1, -(2**63))}]),
    ('{"examples": [{"a": [18446744073709551616, 1.0]}]}', [{"a": floats(2.0**64, 1)}]),
    ('{"examples": [{"a": -9223372036854775809}]}', [{"a": floats(-(2.0**63))}]),
    ('{"examples": [{"a": [1e0, 1e39, -1e39, 1e-46]}]}', [{"a": floats(1, np.inf, -np.inf, 0)}]),
    (b'{"examples": [{"a": "\xff"}]} and more', [{"a": strings(b"\xff")}]),
    ('{"examples": [{"a": 1, "a": 2}], "examples": 7}', [{"a": ints(1)}]),
]


@pytest.mark.parametrize(("body", "examples"), ACCEPTED)
def test_a_good_body_becomes_examples(body: str | bytes, examples: list[Features]) -> None:
    read_ = read(body)
    assert len(read_) == len(examples)
    for given_, wanted in zip(read_, examples, strict=True):
        assert_all_same(dict(given_), wanted)
        assert len(given_) == len(wanted)


REFUSED: list[tuple[str | bytes, str]] = [
    # JsonErrors.
    ('{"signature_name": ["hello"], "examples": [{"names": ["foo"]}]}', "'signature_name' key must be a string value."),
    ('{"context": [{"names": ["foo", "bar"]}]}', "Example must be JSON object but got JSON Array"),
    (
        '{"examples": {"names": ["foo"]}}',
        'JSON Value: {"examples":{"names":["foo"]}} Expecting \'examples\' value to be an list/array',
    ),
    ('{"examples": [[{"names": ["foo", "bar"]}]]}', "Example must be JSON object but got JSON Array"),
    ('{"examples": [{"names": [10, null]}]}', "Feature: names has element with unexpected JSON type: Null"),
    ('{"examples": [{"names": [10, 10.0]}]}', "Unexpected element type in feature: names expecting type: int64"),
    ('{"examples": [{"names": [10, {"test": 10}]}]}', "names has element with unexpected JSON type: Object"),
    ('{"examples": [{"names": [[10], 20]}]}', "names has element with unexpected JSON type: Array"),
    ('{"examples": [{"names": [20, 18446744073709551603]}]}', "has uint64 element. Only int64 is supported."),
    # Other combinations of kinds.
    ('{"examples": [{"a": [1.0, 1]}]}', "feature: a expecting type: float"),
    ('{"examples": [{"a": [1.0, true]}]}', "feature: a expecting type: float"),
    ('{"examples": [{"a": ["b", 1]}]}', "feature: a expecting type: bytes"),
    ('{"examples": [{"a": [true, "b"]}]}', "feature: a expecting type: int64"),
    ('{"examples": [{"a": null}]}', "Feature: a has element with unexpected JSON type: Null"),
    ('{"examples": [{"a": {"b64": 1}}]}', "Feature: a has element with unexpected JSON type: Object"),
    ('{"examples": [{"a": {"b64": "?"}}]}', "Unable to base64 decode"),
    ('{"context": {"a": null}, "examples": [{}]}', "Feature: a has element with unexpected JSON type: Null"),
    ('{"context": null, "examples": [{}]}', "Example must be JSON object but got JSON Null"),
    ('{"examples": [{}, 1]}', "Example must be JSON object but got JSON Number"),
    # The form.
    ("{}", "JSON Value: {} When method is classify, key 'examples' is expected and was not found"),
    ('{"examples": []}', "JSON Value: {\"examples\":[]} 'examples' value is an empty array"),
    ('{"examples": null}', "Expecting 'examples' value to be an list/array"),
    ("[]", "JSON Value: [] Is not object"),
    ("", "JSON Parse error: The document is empty"),
    ('{"examples": [1,]}', "JSON Parse error: Invalid value. at offset: 16"),
]


@pytest.mark.parametrize(("body", "message"), REFUSED)
def test_a_bad_body_is_refused_with_what_is_wrong_with_it(body: str | bytes, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(body)
    assert message in str(caught.value)


def test_a_message_quotes_no_more_than_a_piece_of_the_body() -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(json.dumps({"examples": [{"x" * 100_000: [1, 1.0]}]}))
    assert len(str(caught.value)) < 256 + 100


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ('{"examples": [{}]}', DEFAULT_SIGNATURE),
        ('{"signature_name": "", "examples": [{}]}', DEFAULT_SIGNATURE),
        ('{"signature_name": "other", "examples": [{}]}', "other"),
    ],
)
def test_a_signature_is_named_or_the_default(body: str, name: str) -> None:
    assert parse_examples(body.encode()).signature_name == name


def test_examples_are_a_sequence() -> None:
    examples = parse_examples(b'{"context": {"b": 7}, "examples": [{"a": 1}, {"a": 2}, {"a": 3}]}').examples
    assert [int(example["a"][0]) for example in examples[1:]] == [2, 3]
    assert int(examples[-1]["a"][0]) == 3
    assert examples[0]["b"] is examples[2]["b"]
    assert "c" not in examples[0]
    with pytest.raises(IndexError):
        examples[3]


def test_a_feature_of_no_values_is_not_there() -> None:
    (example,) = parse_examples(b'{"context": {"a": 1, "b": 2}, "examples": [{"a": []}]}').examples
    assert example.get("a") is None
    assert "a" not in example
    assert list(example) == ["b"]


def test_a_context_is_not_written_out_for_each_example() -> None:
    context = ",".join(f'"{i}":0' for i in range(10_000))
    examples = read(f'{{"context":{{{context}}},"examples":[{",".join(["{}"] * 10_000)}]}}')
    assert len(examples) == 10_000
    assert len(examples[-1]) == 10_000


features = st.one_of(
    st.lists(st.floats(width=32), min_size=1, max_size=4).map(lambda values: floats(*values)),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4).map(lambda values: ints(*values)),
    st.lists(st.text(max_size=4).map(str.encode), min_size=1, max_size=4).map(lambda values: strings(*values)),
)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.dictionaries(st.text(max_size=3), features, max_size=3), min_size=1, max_size=3))
def test_examples_that_python_writes_are_read_as_they_were(examples: list[Features]) -> None:
    body = {"examples": [{name: jsonable(values) for name, values in example.items()} for example in examples]}
    read_ = read(json.dumps(body))
    for given_, wanted in zip(read_, examples, strict=True):
        assert_all_same(dict(given_), wanted)


def jsonable(values: NDArray[Any]) -> Any:
    plain = [value.decode() if isinstance(value, bytes) else value for value in values.tolist()]
    return plain[0] if len(plain) == 1 else plain


CLASSIFICATIONS: list[tuple[list[list[ScoredLabel]], str]] = [
    # JsonFromClassificationResult.
    (
        [
            [ScoredLabel("car", 0.2), ScoredLabel("bike", 0.7), ScoredLabel("bus", 0.1)],
            [ScoredLabel("car", 0.7), ScoredLabel("bike", 0.1), ScoredLabel("bus", 0.2)],
        ],
        '{"results":[[["car",0.2],["bike",0.7],["bus",0.1]],[["car",0.7],["bike",0.1],["bus",0.2]]]}',
    ),
    ([[ScoredLabel("", 1)]], '{"results":[[["",1.0]]]}'),
    ([[]], '{"results":[[]]}'),
    (
        [
            [ScoredLabel("null", np.nan), ScoredLabel('"é', np.inf)],
            [ScoredLabel("\0", -np.inf), ScoredLabel("", 1e300)],
        ],
        '{"results":[[["null",NaN],["\\"é",Infinity]],[["\\u0000",-Infinity],["",Infinity]]]}',
    ),
    ([[ScoredLabel("a", float(np.float32(0.1)))]], '{"results":[[["a",0.1]]]}'),
]


@pytest.mark.parametrize(("results", "text"), CLASSIFICATIONS)
def test_classifications_are_labels_with_scores(results: list[list[ScoredLabel]], text: str) -> None:
    assert encode_classifications(results) == text.encode()


def test_regressions_are_numbers() -> None:
    # JsonFromRegressionResult and JsonFromRegressionResultWithNonFinite.
    assert encode_regressions([0.2, 0.9, 1.0]) == b'{"results":[0.2,0.9,1.0]}'
    assert encode_regressions([0.2, np.inf, 1.0, -np.inf, np.nan]) == b'{"results":[0.2,Infinity,1.0,-Infinity,NaN]}'


def test_no_results_are_refused() -> None:
    # JsonFromResultErrors.
    with pytest.raises(InvalidRequest, match="Cannot convert empty ClassificationResults to JSON"):
        encode_classifications([])
    with pytest.raises(InvalidRequest, match="Cannot convert empty RegressionResults to JSON"):
        encode_regressions([])
