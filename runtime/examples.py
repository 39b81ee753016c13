"""Classify and regress: inference over tf.Example, for models whose signature allows it.

In TensorFlow the graph parses examples. Here each input of the signature, ``[batch, ...]``, takes from every example
the feature of its name. Which outputs answer is told from their dtypes and shapes, with TensorFlow Serving's names for
them where that leaves a choice; its ``method_name`` is not asked, as models of OpenVINO have none.

Texts, where TensorFlow Serving has one: ``servables/tensorflow/{classifier,regressor,util}.cc``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.codecs.dtypes import is_float, is_string, tf_name
from runtime.errors import NAME, InvalidRequest, quoted
from runtime.servable import Servable
from runtime.signature import DYNAMIC, MAX_REPEATED, STRING_COST, Dtype, Signature, TensorSpec

Example = Mapping[str, NDArray[Any]]
"""tensorflow.Example: features by name, each of rank 1 and float32, int64 or bytes (dtype object)."""

MAX_EXAMPLES = 100_000
"""In a request: with a context two bytes are an example."""
MAX_SCORES = 1_000_000
"""In an answer to `classify`, each of which is an object in it."""
_MAX_NAMES = 256


class ScoredLabel(NamedTuple):
    label: str
    """Empty if the model has none."""
    score: float


def classify(
    servable: Servable, signature_name: str, examples: Sequence[Example], deadline: float | None = None
) -> list[list[ScoredLabel]]:
    """Return for each example all classes, in the model's order.

    Raises:
        InvalidRequest: there is no such signature, it does not classify, or the examples do not fit it.
        InferenceError: as `Servable.predict`.
    """
    signature = _signature(servable, signature_name)
    scores_name, labels_name = classification_outputs(signature)
    outputs = servable.predict(signature_name, _inputs(signature, examples), deadline)
    scores = outputs[scores_name]
    if scores.ndim != 2:
        raise InvalidRequest(f"Expected Tensor shape: [batch_size num_classes] but got {list(scores.shape)}")
    if len(scores) != len(examples):
        raise InvalidRequest(f"Expected scores output batch size of {len(examples)}. Got: {len(scores)}")
    if scores.size > MAX_SCORES:
        raise InvalidRequest(f"the answer would have {scores.size} scores; want {MAX_SCORES} at most")
    labels = [[""] * scores.shape[1]] * len(scores)
    if labels_name:
        if outputs[labels_name].shape != scores.shape:
            raise InvalidRequest(
                f"Tensors class and score should match. Got {list(outputs[labels_name].shape)} vs. {list(scores.shape)}"
            )
        labels = [[label.decode(errors="replace") for label in row] for row in outputs[labels_name].tolist()]
    return [
        [ScoredLabel(*pair) for pair in zip(row, values, strict=True)]
        for row, values in zip(labels, scores.astype(np.float64).tolist(), strict=True)
    ]


def regress(
    servable: Servable, signature_name: str, examples: Sequence[Example], deadline: float | None = None
) -> list[float]:
    """Return for each example its value.

    Raises:
        InvalidRequest: there is no such signature, it does not regress, or the examples do not fit it.
        InferenceError: as `Servable.predict`.
    """
    signature = _signature(servable, signature_name)
    name = regression_output(signature)
    output = servable.predict(signature_name, _inputs(signature, examples), deadline)[name]
    if output.ndim != 1 and not (output.ndim == 2 and output.shape[1] == 1):
        raise InvalidRequest(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {list(output.shape)}"
        )
    if len(output) != len(examples):
        raise InvalidRequest(f"Input batch size did not match output batch size: {len(examples)} vs. {len(output)}")
    values: list[float] = output.ravel().astype(np.float64).tolist()
    return values


def _signature(servable: Servable, name: str) -> Signature:
    if name not in servable.signatures:
        raise InvalidRequest(f"No signature was found with the name: {quoted(name, NAME)}")
    return servable.signatures[name]


def classification_outputs(signature: Signature) -> tuple[str, str | None]:
    """Return the names of the outputs with scores and with labels; the latter is None if the model has none."""
    scores = _output(signature, "scores", is_float, _is_table)
    if scores is None:
        raise InvalidRequest(
            "Expected classification signature outputs to have one float tensor [batch, classes], or several of which "
            f'one is named "scores". Signature was: {_told(signature.outputs)}'
        )
    return scores, _output(signature, "classes", is_string, _is_table)


def regression_output(signature: Signature) -> str:
    """Return the name of the output with the values."""
    values = _output(signature, "outputs", is_float, _is_column)
    if values is None:
        raise InvalidRequest(
            "Expected regression signature outputs to have one float tensor [batch] or [batch, 1], or several of which "
            f'one is named "outputs". Signature was: {_told(signature.outputs)}'
        )
    return values


def _output(
    signature: Signature,
    usual: str,
    is_of_dtype: Callable[[Dtype], bool],
    is_of_shape: Callable[[tuple[int, ...]], bool],
) -> str | None:
    fitting = [
        name
        for name, spec in signature.outputs.items()
        if is_of_dtype(spec.dtype) and (spec.shape is None or is_of_shape(spec.shape))
    ]
    if usual in fitting:
        return usual
    return fitting[0] if len(fitting) == 1 else None


def _is_table(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2


def _is_column(shape: tuple[int, ...]) -> bool:
    return len(shape) == 1 or (len(shape) == 2 and shape[1] in (1, DYNAMIC))


def _told(specs: Mapping[str, TensorSpec]) -> str:
    told = ", ".join(f"{name} {tf_name(spec.dtype)} {_shape(spec)}" for name, spec in specs.items())
    return quoted(told)


def _shape(spec: TensorSpec) -> str:
    return "of any rank" if spec.shape is None else str(list(spec.shape))


def _inputs(signature: Signature, examples: Sequence[Example]) -> dict[str, NDArray[Any]]:
    if not examples:
        raise InvalidRequest("Input is empty.")
    if len(examples) > MAX_EXAMPLES:
        raise InvalidRequest(f"{len(examples)} examples are given; want {MAX_EXAMPLES} at most")
    return {name: _batch(name, spec, examples) for name, spec in signature.inputs.items()}


def _batch(name: str, spec: TensorSpec, examples: Sequence[Example]) -> NDArray[Any]:
    """Return the feature of that name of all examples as one array, as the spec has it."""
    if not spec.shape or spec.shape[1:].count(DYNAMIC) > 1:
        raise InvalidRequest(
            f"input '{name}' is {_shape(spec)}; examples need [batch, ...] with at most one open size behind the batch"
        )
    features = [_feature(name, spec, i, example) for i, example in enumerate(examples)]
    shape = (len(features), *_row_shape(name, spec.shape[1:], features))
    spec.require(shape)
    _check_repetition(name, features)
    return _cast(name, np.concatenate(features), spec.dtype).reshape(shape)


def _check_repetition(name: str, features: Sequence[NDArray[Any]]) -> None:
    sizes = {key: _size(feature) for key, feature in {id(feature): feature for feature in features}.items()}
    given, made = sum(sizes.values()), sum(sizes[id(feature)] for feature in features)
    if made - given > MAX_REPEATED:
        raise InvalidRequest(
            f"feature '{name}' has {given} bytes and makes {made} for {len(features)} examples; at most {MAX_REPEATED} "
            "more are made by repetition"
        )


def _size(feature: NDArray[Any]) -> int:
    if is_string(feature.dtype):
        return sum(STRING_COST + len(string) for string in feature.tolist())
    return feature.nbytes


def _feature(name: str, spec: TensorSpec, i: int, example: Example) -> NDArray[Any]:
    feature = example.get(name)
    if feature is None:
        names = ", ".join(sorted(example)[:10])[:_MAX_NAMES]
        raise InvalidRequest(f"example {i} has no feature '{name}'; it has {len(example)}: {{{names}}}")
    given, wanted = _kind(feature.dtype), _kind(spec.dtype)
    if given != wanted:
        raise InvalidRequest(f"example {i} has feature '{name}' as {given}; want {wanted} for {tf_name(spec.dtype)}")
    return feature


def _kind(dtype: Dtype) -> str:
    if is_string(dtype):
        return "bytes_list"
    return "float_list" if is_float(dtype) else "int64_list"


def _row_shape(name: str, inner: tuple[int, ...], features: Sequence[NDArray[Any]]) -> tuple[int, ...]:
    """Return the shape of one example's values: the first has the say on the open size."""
    known = math.prod(size for size in inner if size != DYNAMIC)
    is_open = DYNAMIC in inner
    first = len(features[0])
    if is_open and (first % known if known else first):
        raise InvalidRequest(f"example 0 has {first} values of feature '{name}'; want a multiple of {known}")
    wanted = first if is_open else known
    for i, feature in enumerate(features):
        if len(feature) != wanted:
            like = " as example 0 has" if is_open else f" for {list(inner)}"
            raise InvalidRequest(f"example {i} has {len(feature)} values of feature '{name}'; want {wanted}{like}")
    return tuple((first // known if known else 0) if size == DYNAMIC else size for size in inner)


def _cast(name: str, values: NDArray[Any], dtype: Dtype) -> NDArray[Any]:
    if values.dtype.kind == "i" and len(values):
        low, high = _limits(dtype)
        least, most = int(values.min()), int(values.max())
        if least < low or most > high:
            value = least if least < low else most
            raise InvalidRequest(f"feature '{name}' has {value}; want {low} to {high} for {tf_name(dtype)}")
    # What is too large for a narrower float is infinite there, as in TensorFlow's casts.
    with np.errstate(over="ignore"):
        return values.astype(dtype, copy=False)


def _limits(dtype: Dtype) -> tuple[int, int]:
    if dtype == np.bool_:
        return 0, 1
    limits = np.iinfo(dtype.name)
    return int(limits.min), int(limits.max)
