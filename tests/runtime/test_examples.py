"""tf.Example into the inputs of a signature, and its outputs into classes and values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.errors import InferenceError, InvalidRequest
from runtime.examples import MAX_EXAMPLES, MAX_SCORES, classify, regress
from runtime.servable import LoadPhases, Tensors
from runtime.signature import DEFAULT_SIGNATURE, MAX_REPEATED, Dtype, Signature, TensorSpec
from tests.runtime.codecs.specs import BFLOAT16

F16, F32, F64 = (np.dtype(f"f{size}") for size in (2, 4, 8))
I64, BOOL, STRING = np.dtype(np.int64), np.dtype(np.bool_), np.dtype(object)


class Scripted:
    """Answers with the outputs it was made with, and keeps what it was asked."""

    size = 1
    phases = LoadPhases(None, 0, 0)
    concurrency = 1
    is_quick = False
    is_kept = False

    def __init__(self, inputs: dict[str, Any], outputs: dict[str, Any], answer: Tensors | None = None) -> None:
        self.signatures = {DEFAULT_SIGNATURE: Signature(_specs(inputs), _specs(outputs))}
        self._answer = answer or {}
        self.asked: list[tuple[str, Tensors, float | None]] = []

    def predict(self, signature_name: str, inputs: Tensors, deadline: float | None = None) -> Tensors:
        self.asked.append((signature_name, inputs, deadline))
        return self._answer

    def close(self) -> None:
        pass


def _specs(given: dict[str, Any]) -> dict[str, TensorSpec]:
    return {name: TensorSpec(name, dtype, shape) for name, (dtype, shape) in given.items()}


def strings(*values: Any) -> NDArray[Any]:
    """Rows of strings, or a row."""
    return np.array([*values], object)


def floats(*values: float) -> NDArray[Any]:
    return np.array(values, F32)


def ints(*values: int) -> NDArray[Any]:
    return np.array(values, I64)


def batch_of(dtype: Dtype, shape: tuple[int, ...] | None, *features: NDArray[Any]) -> NDArray[Any]:
    """What a model with an input x of that dtype and shape is given for examples with these features."""
    n = len(features)
    servable = Scripted({"x": (dtype, shape)}, {"y": (F32, (-1,))}, {"y": np.zeros(n, F32)})
    regress(servable, DEFAULT_SIGNATURE, [{"x": feature, "other": ints(1)} for feature in features])
    ((_, inputs, _),) = servable.asked
    return inputs["x"]


@pytest.mark.parametrize(
    ("dtype", "shape", "features", "want"),
    [
        (F32, (-1,), [floats(1), floats(2)], [1, 2]),
        (F32, (-1, 2), [floats(1, 2), floats(3, 4)], [[1, 2], [3, 4]]),
        (F32, (-1, 2, 2), [floats(1, 2, 3, 4)], [[[1, 2], [3, 4]]]),
        (F32, (2, 1), [floats(1), floats(2)], [[1], [2]]),
        (F32, (-1, -1), [floats(1, 2, 3), floats(4, 5, 6)], [[1, 2, 3], [4, 5, 6]]),
        (F32, (-1, 2, -1), [floats(1, 2, 3, 4, 5, 6)], [[[1, 2, 3], [4, 5, 6]]]),
        (F32, (-1, -1, 2), [floats(1, 2, 3, 4)], [[[1, 2], [3, 4]]]),
        (F32, (-1, -1), [floats(), floats()], [[], []]),
        (F32, (-1, 0), [floats()], [[]]),
        (F16, (-1,), [floats(1.5), floats(1e30)], [1.5, np.inf]),
        (BFLOAT16, (-1,), [floats(1.5)], [1.5]),
        (F64, (-1,), [floats(0.5)], [0.5]),
        (I64, (-1,), [ints(-(2**63)), ints(2**63 - 1)], [-(2**63), 2**63 - 1]),
        (np.dtype(np.int8), (-1,), [ints(-128), ints(127)], [-128, 127]),
        (np.dtype(np.uint64), (-1,), [ints(2**63 - 1)], [2**63 - 1]),
        (BOOL, (-1, 2), [ints(0, 1)], [[False, True]]),
        (STRING, (-1, 2), [strings(b"a", b""), strings(b"\xff", b"d")], [[b"a", b""], [b"\xff", b"d"]]),
    ],
)
def test_a_feature_becomes_the_input_of_its_name(
    dtype: Dtype, shape: tuple[int, ...], features: list[NDArray[Any]], want: list[Any]
) -> None:
    batch = batch_of(dtype, shape, *features)
    assert (batch.dtype, batch.tolist()) == (dtype, want)
    assert len(batch.shape) == len(shape)


@pytest.mark.parametrize(
    ("dtype", "shape", "features", "why"),
    [
        (F32, (-1,), [ints(1)], "example 0 has feature 'x' as int64_list; want float_list for DT_FLOAT"),
        (I64, (-1,), [ints(1), floats(1)], "example 1 has feature 'x' as float_list; want int64_list for DT_INT64"),
        (BOOL, (-1,), [strings(b"a")], "feature 'x' as bytes_list; want int64_list for DT_BOOL"),
        (STRING, (-1,), [ints(1)], "feature 'x' as int64_list; want bytes_list for DT_STRING"),
        (F32, (-1,), [floats(1, 2)], "example 0 has 2 values of feature 'x'; want 1 for []"),
        (F32, (-1, 2), [floats(1, 2), floats(1)], "example 1 has 1 values of feature 'x'; want 2 for [2]"),
        (F32, (-1, -1), [floats(1, 2), floats(1)], "example 1 has 1 values of feature 'x'; want 2 as example 0 has"),
        (F32, (-1, -1, 2), [floats(1, 2, 3)], "example 0 has 3 values of feature 'x'; want a multiple of 2"),
        (F32, (-1, -1, 0), [floats(1)], "example 0 has 1 values of feature 'x'; want a multiple of 0"),
        (F32, (2, 1), [floats(1)], "input 'x' has shape (1, 1); want (2, 1)"),
        (F32, (-1, -1, -1), [floats(1)], "at most one open size behind the batch"),
        (F32, (), [floats(1)], "input 'x' is []; examples need [batch, ...]"),
        (F32, None, [floats(1)], "input 'x' is of any rank; examples need [batch, ...]"),
        (np.dtype(np.int8), (-1,), [ints(1), ints(128)], "feature 'x' has 128; want -128 to 127 for DT_INT8"),
        (np.dtype(np.uint8), (-1,), [ints(-1)], "feature 'x' has -1; want 0 to 255 for DT_UINT8"),
        (BOOL, (-1,), [ints(2)], "feature 'x' has 2; want 0 to 1 for DT_BOOL"),
    ],
)
def test_a_feature_that_does_not_fit_is_refused_with_why(
    dtype: Dtype, shape: tuple[int, ...] | None, features: list[NDArray[Any]], why: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        batch_of(dtype, shape, *features)
    assert why in str(caught.value)


@pytest.mark.parametrize("ask", [classify, regress])
def test_without_examples_the_input_is_empty(ask: Any) -> None:
    servable = Scripted({"x": (F32, (-1,))}, {"y": (F32, (-1, 1))})
    with pytest.raises(InvalidRequest, match=r"^Input is empty\.$"):
        ask(servable, DEFAULT_SIGNATURE, [])


def test_a_missing_feature_is_named() -> None:
    servable = Scripted({"x": (F32, (-1,))}, {"y": (F32, (-1,))})
    with pytest.raises(InvalidRequest, match=r"example 1 has no feature 'x'; it has 2: \{a, b\}"):
        regress(servable, DEFAULT_SIGNATURE, [{"x": floats(1)}, {"b": ints(1), "a": ints(1)}])
    assert servable.asked == []


@pytest.mark.parametrize("ask", [classify, regress])
def test_an_unknown_signature_is_refused(ask: Any) -> None:
    servable = Scripted({"x": (F32, (-1,))}, {"y": (F32, (-1,))})
    with pytest.raises(InvalidRequest, match="No signature was found with the name: other"):
        ask(servable, "other", [{"x": floats(1)}])


def test_the_deadline_goes_on_to_the_servable() -> None:
    servable = Scripted({"x": (F32, (-1,))}, {"y": (F32, (-1, 1))}, {"y": np.zeros((1, 1), F32)})
    regress(servable, DEFAULT_SIGNATURE, [{"x": floats(1)}], 12.5)
    classify(servable, DEFAULT_SIGNATURE, [{"x": floats(1)}], 12.5)
    assert [deadline for _, _, deadline in servable.asked] == [12.5, 12.5]


SCORES = np.array([[0.25, 0.75], [1, 0]], F32)
LABELS = strings([b"cat", b"d\xc3\xb6g"], [b"a", b"\xff"])


def classified(outputs: dict[str, Any], answer: Tensors) -> list[list[tuple[str, float]]]:
    servable = Scripted({"x": (F32, (-1,))}, outputs, answer)
    results = classify(servable, DEFAULT_SIGNATURE, [{"x": floats(1)}, {"x": floats(2)}])
    return [[(label, score) for label, score in row] for row in results]


@pytest.mark.parametrize(
    ("outputs", "scores", "labels"),
    [
        ({"y": (F32, (-1, 2))}, "y", None),
        ({"y": (F32, (-1, -1))}, "y", None),
        ({"y": (F32, None)}, "y", None),
        ({"y": (F16, (-1, 2))}, "y", None),
        ({"scores": (F32, (-1, 2)), "logits": (F32, (-1, 2))}, "scores", None),
        ({"y": (F32, (-1, 2)), "pooled": (F32, (-1, 7, 7)), "id": (I64, (-1, 2))}, "y", None),
        ({"y": (F32, (-1, 2)), "names": (STRING, (-1, 2))}, "y", "names"),
        ({"y": (F32, (-1, 2)), "names": (STRING, (-1, 2)), "classes": (STRING, (-1, 2))}, "y", "classes"),
        ({"y": (F32, (-1, 2)), "a": (STRING, (-1, 2)), "b": (STRING, (-1, 2))}, "y", None),
        ({"y": (F32, (-1, 2)), "a": (STRING, (-1,))}, "y", None),
    ],
)
def test_scores_and_labels_are_found(outputs: dict[str, Any], scores: str, labels: str | None) -> None:
    wrong: Tensors = dict.fromkeys(outputs, np.full((2, 2), 9, F32))
    answer = {**wrong, scores: SCORES.astype(outputs[scores][0]), **({labels: LABELS} if labels else {})}
    texts = [["cat", "dög"], ["a", "\ufffd"]] if labels else [["", ""], ["", ""]]
    want = [list(zip(row, values, strict=True)) for row, values in zip(texts, SCORES.tolist(), strict=True)]
    assert classified(outputs, answer) == want


@pytest.mark.parametrize(
    "outputs",
    [
        {"y": (I64, (-1, 2))},
        {"y": (F32, (-1,))},
        {"y": (F32, (-1, 2, 2))},
        {"y": (F32, (-1, 2)), "z": (F32, (-1, 2))},
        {"classes": (STRING, (-1, 2))},
    ],
)
def test_a_signature_that_does_not_classify_says_what_it_has_and_what_it_would_need(outputs: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        classified(outputs, {})
    assert "Expected classification signature outputs to have one float tensor [batch, classes]" in str(caught.value)
    first, (_, shape) = next(iter(outputs.items()))
    assert f"Signature was: {first} DT_" in str(caught.value)
    assert str(list(shape)) in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"y": SCORES[0], "names": LABELS}, r"Expected Tensor shape: \[batch_size num_classes\] but got \[2\]"),
        ({"y": SCORES[:1], "names": LABELS}, "Expected scores output batch size of 2. Got: 1"),
        ({"y": SCORES, "names": LABELS[:1]}, r"Tensors class and score should match. Got \[1, 2\] vs. \[2, 2\]"),
    ],
)
def test_an_answer_that_is_no_classification_is_refused(answer: Tensors, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        classified({"y": (F32, None), "names": (STRING, None)}, answer)


def regressed(outputs: dict[str, Any], answer: Tensors) -> list[float]:
    servable = Scripted({"x": (F32, (-1,))}, outputs, answer)
    return regress(servable, DEFAULT_SIGNATURE, [{"x": floats(1)}, {"x": floats(2)}])


@pytest.mark.parametrize(
    ("outputs", "name", "shape"),
    [
        ({"y": (F32, (-1,))}, "y", (2,)),
        ({"y": (F32, (-1, 1))}, "y", (2, 1)),
        ({"y": (F64, (-1, -1))}, "y", (2, 1)),
        ({"y": (F16, None)}, "y", (2,)),
        ({"y": (F32, (-1,)), "outputs": (F32, (-1,))}, "outputs", (2,)),
        ({"y": (F32, (-1,)), "hidden": (F32, (-1, 8)), "id": (I64, (-1,))}, "y", (2,)),
    ],
)
def test_values_are_found(outputs: dict[str, Any], name: str, shape: tuple[int, ...]) -> None:
    wrong: Tensors = dict.fromkeys(outputs, np.full(2, 9, F32))
    answer = {**wrong, name: np.array([0.5, -2], outputs[name][0]).reshape(shape)}
    assert regressed(outputs, answer) == [0.5, -2]


@pytest.mark.parametrize(
    "outputs", [{"y": (F32, (-1, 2))}, {"y": (I64, (-1,))}, {"a": (F32, (-1,)), "b": (F32, (-1,))}]
)
def test_a_signature_that_does_not_regress_says_what_it_has_and_what_it_would_need(outputs: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        regressed(outputs, {})
    assert "Expected regression signature outputs to have one float tensor [batch] or [batch, 1]" in str(caught.value)
    assert "Signature was: " in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (np.zeros((2, 2), F32), r"either \[batch_size\] or \[batch_size, 1\] but got \[2, 2\]"),
        (np.zeros((), F32), r"but got \[\]"),
        (np.zeros(3, F32), "Input batch size did not match output batch size: 2 vs. 3"),
    ],
)
def test_an_answer_that_is_no_regression_is_refused(answer: NDArray[Any], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        regressed({"y": (F32, None)}, {"y": answer})


# One feature of a context may stand for any number of examples.
@pytest.mark.parametrize(
    ("dtype", "feature"), [(F32, np.zeros(1 << 20, F32)), (STRING, np.array([b"s" * (1 << 22)], object))]
)
def test_what_is_repeated_is_bounded_before_it_takes_memory(dtype: Dtype, feature: NDArray[Any]) -> None:
    servable = Scripted({"x": (dtype, (-1, -1))}, {"y": (F32, (-1,))})
    most = MAX_REPEATED >> 22
    with pytest.raises(InvalidRequest, match=r"feature 'x' has .* more are made by repetition"):
        regress(servable, DEFAULT_SIGNATURE, [{"x": feature}] * (most + 2))
    assert servable.asked == []
    # As many bytes, and each of them sent.
    own = [{"x": feature.copy()} for _ in range(4)]
    with pytest.raises(KeyError):
        regress(servable, DEFAULT_SIGNATURE, own)
    assert len(servable.asked) == 1


def test_there_may_be_so_many_examples_and_no_more() -> None:
    servable = Scripted({"x": (F32, (-1, 1))}, {"y": (F32, (-1,))})
    example = {"x": np.zeros(1, F32)}
    with pytest.raises(InvalidRequest, match=f"{MAX_EXAMPLES + 1} examples are given; want {MAX_EXAMPLES} at most"):
        regress(servable, DEFAULT_SIGNATURE, [example] * (MAX_EXAMPLES + 1))
    assert servable.asked == []


def test_an_answer_has_so_many_scores_and_no_more() -> None:
    scores = np.zeros((2, MAX_SCORES // 2 + 1), F32)
    with pytest.raises(InvalidRequest, match=f"would have {MAX_SCORES + 2} scores; want {MAX_SCORES} at most"):
        classified({"y": (F32, None)}, {"y": scores})


def test_a_long_signature_is_told_in_part() -> None:
    outputs = {f"output_{i}": (I64, (-1,)) for i in range(100)}
    with pytest.raises(InferenceError) as caught:
        regressed(outputs, {})
    assert len(str(caught.value)) < 500
