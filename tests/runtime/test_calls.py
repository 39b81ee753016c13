"""Requests of gRPC's on a servable alone, as a warm-up replays them; over the wire they are in test_servicers.py."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from runtime import calls
from runtime.codecs import schema
from runtime.errors import InvalidRequest, SignatureNotFound
from runtime.signature import CLASSIFY_METHOD, DEFAULT_SIGNATURE, Signature, TensorSpec
from tests.runtime import oracle
from tests.runtime.servables import F32, HalfPlusTwo

MEBIBYTE = 1 << 20


class Rows(HalfPlusTwo):
    """Takes rows of any length, and answers with their sums, as values and as scores."""

    def __init__(self) -> None:
        super().__init__(1)
        x = {"x": TensorSpec("x", F32, (-1, -1))}
        self.signatures = {DEFAULT_SIGNATURE: Signature(x, {"sum": TensorSpec("sum", F32, (-1, 1))})}
        self.deadlines: list[float | None] = []

    def predict(self, signature_name: str, inputs: Any, deadline: float | None = None) -> Any:
        self.deadlines.append(deadline)
        return {"sum": inputs["x"].sum(axis=1, keepdims=True)}


class Lengths(HalfPlusTwo):
    """Takes strings and integers, and answers with the strings' lengths times the integers."""

    def __init__(self) -> None:
        super().__init__(1)
        inputs = {"s": TensorSpec("s", np.dtype(object), (-1,)), "n": TensorSpec("n", np.dtype(np.uint8), (-1, 1))}
        self.signatures = {DEFAULT_SIGNATURE: Signature(inputs, {"y": TensorSpec("y", F32, (-1,))})}

    def predict(self, signature_name: str, inputs: Any, deadline: float | None = None) -> Any:
        lengths = np.array([len(string) for string in inputs["s"]], np.float32)
        return {"y": lengths * inputs["n"].ravel()}


def ours(message: Any) -> Any:
    """The same message in the product's schema."""
    return getattr(schema, message.DESCRIPTOR.name).FromString(message.SerializeToString())


def regression(*examples: Any, context: Any = None) -> Any:
    made = oracle.RegressionRequest()
    if context is None:
        made.input.example_list.examples.extend(examples)
    else:
        made.input.example_list_with_context.examples.extend(examples)
        made.input.example_list_with_context.context.CopyFrom(context)
    return ours(made)


@contextmanager
def bounded(most: int) -> Iterator[None]:
    """Fail if numpy and Python take more than this meanwhile, in bytes."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def test_an_answer_names_the_signature_and_leaves_the_rest_to_who_knows_it() -> None:
    made = oracle.PredictRequest()
    made.model_spec.name = "somebody"
    made.inputs["x"].CopyFrom(oracle.typed(np.array([1], np.float32)))
    answer = calls.predict(HalfPlusTwo(1), ours(made))
    assert answer.model_spec == schema.ModelSpec(signature_name=DEFAULT_SIGNATURE)
    assert oracle.array(oracle.TensorProto.FromString(answer.outputs["y"].SerializeToString())).tolist() == [2.5]


def test_a_request_needs_no_model_spec_here() -> None:
    servable = Rows()
    (answer,) = calls.regress(servable, regression(oracle.example(x=[1.0, 2.0])), 12.5).result.regressions
    assert answer.value == 3
    assert servable.deadlines == [12.5]
    with pytest.raises(SignatureNotFound):
        calls.predict(servable, schema.PredictRequest(model_spec=schema.ModelSpec(signature_name="none")))


def test_each_task_has_the_deadline() -> None:
    servable = Rows()
    request = schema.MultiInferenceRequest(input=regression(oracle.example(x=[1.0])).input)
    request.tasks.add(method_name=CLASSIFY_METHOD).model_spec.name = "m"
    (result,) = calls.multi_inference(servable, request, 12.5).results
    assert [each.score for each in result.classification_result.classifications[0].classes] == [1]
    assert servable.deadlines == [12.5]


def test_a_context_is_not_repeated_without_end() -> None:
    # 4 MB, and 4 GB as a batch.
    request = regression(*[oracle.example()] * 1000, context=oracle.example(x=[0.5] * MEBIBYTE))
    with bounded(32 * MEBIBYTE), pytest.raises(InvalidRequest, match="made by repetition"):
        calls.regress(Rows(), request)


def test_a_context_of_many_features_is_not_copied_for_each_example() -> None:
    many = {f"feature {i}": [0.5] for i in range(1000)}
    request = regression(*[oracle.example()] * 20_000, context=oracle.example(x=[1.0], **many))
    with bounded(32 * MEBIBYTE):
        regressions = calls.regress(Rows(), request).result.regressions
    assert len(regressions) == 20_000


def test_features_of_every_kind_arrive() -> None:
    request = regression(oracle.example(s=[b"abc"], n=[2]), oracle.example(s=[b""], n=[255]))
    assert [each.value for each in calls.regress(Lengths(), request).result.regressions] == [6, 0]
    with pytest.raises(InvalidRequest, match="feature 'n' has 256; want 0 to 255 for DT_UINT8"):
        calls.regress(Lengths(), regression(oracle.example(s=[b"abc"], n=[256])))


def test_what_an_example_has_is_told_with_what_its_context_has() -> None:
    request = regression(oracle.example(a=[1], b=[1]), context=oracle.example(b=[2], c=[2]))
    with pytest.raises(InvalidRequest, match=r"example 0 has no feature 'x'; it has 3: \{a, b, c\}"):
        calls.regress(Rows(), request)


def test_a_feature_without_a_kind_is_none() -> None:
    empty = oracle.Example()
    empty.features.feature["x"].SetInParent()
    for request in (regression(empty), regression(empty, context=oracle.example(x=[1.0]))):
        with pytest.raises(InvalidRequest, match="example 0 has no feature 'x'"):
            calls.regress(Rows(), request)
    in_context = regression(oracle.example(x=[1.0]), context=empty)
    assert len(calls.regress(Rows(), in_context).result.regressions) == 1
