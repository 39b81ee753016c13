"""A gRPC request on a servable: message -> inference -> message, without a transport and without a model server.

What a model is called and which version answers is the caller's to know and to write into the answer. Checks come in
TensorFlow Serving's order, and with its texts: ``servables/tensorflow/{predict_util,multi_inference,util}.cc``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from model_cache.timeline import lap
from runtime import examples
from runtime.codecs import schema, tensor_proto
from runtime.codecs.dtypes import is_string, tf_name, tf_number
from runtime.errors import NAME, InvalidRequest, SignatureNotFound, Unsupported, quoted
from runtime.examples import Example
from runtime.inputs import check_inputs, check_names
from runtime.servable import Servable, Tensors
from runtime.signature import CLASSIFY_METHOD, DEFAULT_SIGNATURE, REGRESS_METHOD, Signature, TensorSpec

T = TypeVar("T")


def predict(servable: Servable, request: Any, deadline: float | None = None, tensor_content_from: int = 0) -> Any:
    """Answer a PredictRequest.

    Args:
        servable: what runs it.
        request: of whose ``model_spec`` only the signature's name counts.
        deadline: in seconds of the monotonic clock.
        tensor_content_from: bytes from which on a tensor is answered in ``tensor_content``; 0 for none.

    Raises:
        InferenceError: whose fault it is, its class tells.
    """
    signature_name = _signature_name(request.model_spec)
    if signature_name not in servable.signatures:
        raise SignatureNotFound(f'Serving signature key "{quoted(signature_name, NAME)}" not found.')
    signature = servable.signatures[signature_name]
    special = {name: proto for name, proto in request.inputs.items() if name in signature.special_inputs}
    protos = (
        {name: proto for name, proto in request.inputs.items() if name not in special} if special else request.inputs
    )
    check_names(signature.inputs, protos.keys())
    # All before any is decoded: a few bytes may stand for a large tensor.
    heads = {name: tensor_proto.decode_head(name, proto) for name, proto in protos.items()}
    wanted = _filter(request.output_filter, signature)
    inputs = _inputs(signature.inputs, protos, heads, deadline)
    if special:
        inputs = {**inputs, **_special(special, signature.special_inputs)}
    lap("decode")
    outputs = servable.predict(signature_name, inputs, deadline)
    lap("infer")
    response = schema.PredictResponse()
    for name in wanted:
        # Who waits for what is special looks into its own field.
        content_from = 0 if name in signature.special_outputs else tensor_content_from
        tensor_proto.encode(outputs[name], response.outputs[name], content_from)
    response.model_spec.signature_name = signature_name
    lap("encode")
    return response


def classify(servable: Servable, request: Any, deadline: float | None = None) -> Any:
    """Answer a ClassificationRequest; as `predict`."""
    signature_name = _signature_name(request.model_spec)
    response = schema.ClassificationResponse()
    _classify(servable, signature_name, _Examples(request.input), deadline, response.result)
    response.model_spec.signature_name = signature_name
    return response


def regress(servable: Servable, request: Any, deadline: float | None = None) -> Any:
    """Answer a RegressionRequest; as `predict`."""
    signature_name = _signature_name(request.model_spec)
    response = schema.RegressionResponse()
    _regress(servable, signature_name, _Examples(request.input), deadline, response.result)
    response.model_spec.signature_name = signature_name
    return response


def multi_inference(servable: Servable, request: Any, deadline: float | None = None) -> Any:
    """Answer a MultiInferenceRequest, several signatures of one model over the same examples; as `predict`."""
    _check_tasks(servable, request.tasks)
    given = _Examples(request.input)
    response = schema.MultiInferenceResponse()
    for task in request.tasks:
        signature_name = _signature_name(task.model_spec)
        answer = response.results.add()
        if task.method_name == CLASSIFY_METHOD:
            _classify(servable, signature_name, given, deadline, answer.classification_result)
        else:
            _regress(servable, signature_name, given, deadline, answer.regression_result)
        answer.model_spec.signature_name = signature_name
    return response


def _signature_name(spec: Any) -> str:
    name: str = spec.signature_name
    return name or DEFAULT_SIGNATURE


def _filter(wanted: Sequence[str], signature: Signature) -> Collection[str]:
    outputs, special = signature.outputs, signature.special_outputs
    seen: set[str] = set()
    for name in wanted:
        if name not in outputs and name not in special:
            raise InvalidRequest(
                f"output tensor alias not found in signature: {quoted(name, NAME)} Outputs expected to be in the set "
                f"{{{','.join(sorted(outputs))}}}."
            )
        if name in seen:
            raise InvalidRequest(f"duplicate output tensor alias: {quoted(name, NAME)}")
        seen.add(name)
    # What is special is always answered: without it a client cannot go on.
    return dict.fromkeys([*(wanted or outputs), *special]) if special else wanted or outputs


def _inputs(
    specs: Mapping[str, TensorSpec],
    protos: Mapping[str, Any],
    heads: Mapping[str, tensor_proto.Head],
    deadline: float | None,
) -> Tensors:
    """Return the arrays of the specs' dtypes, made of images where these were sent."""
    files = {name for name, head in heads.items() if is_string(head.dtype) and not is_string(specs[name].dtype)}
    if not files:
        check_inputs(specs, heads)
        return {name: tensor_proto.decode(name, proto, heads[name]) for name, proto in protos.items()}
    # Imported by who needs it.
    from runtime.images import decode_images

    images = {name for name in files if specs[name].takes_images}
    check_inputs(_without(images, specs), _without(images, heads))
    inputs = {name: tensor_proto.decode(name, proto, heads[name]) for name, proto in protos.items()}
    return decode_images(specs, inputs, deadline)


def _without(names: Collection[str], mapping: Mapping[str, T]) -> dict[str, T]:
    return {name: value for name, value in mapping.items() if name not in names}


def _special(protos: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> Tensors:
    """Return the arrays of special inputs, of any shape: what is wrong with that is the servable's to say."""
    for name, proto in protos.items():
        want = specs[name].dtype
        if proto.dtype != tf_number(want):
            raise InvalidRequest(
                f"Could not find {name.replace('_', ' ')} in expected tensor proto field {want.name}_val: "
                f"want {tf_name(want)}"
            )
    return {name: tensor_proto.decode(name, proto) for name, proto in protos.items()}


def _check_tasks(servable: Servable, tasks: Iterable[Any]) -> None:
    """Raise InvalidRequest or Unsupported unless all can be done, and on one model."""
    model_names: set[str] = set()
    signature_names: set[str] = set()
    for task in tasks:
        name = _signature_name(task.model_spec)
        model_names.add(task.model_spec.name)
        if "" in model_names:
            raise InvalidRequest("Found ModelSpec with an empty model name.")
        if len(model_names) > 1:
            raise InvalidRequest("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        if name in signature_names:
            raise InvalidRequest(f"Duplicate evaluation of signature: {quoted(name, NAME)}")
        signature_names.add(name)
        _check_task(servable, name, task.method_name)


def _check_task(servable: Servable, signature_name: str, method_name: str) -> None:
    if signature_name not in servable.signatures:
        raise InvalidRequest(f"Requested signature not found in model graph: {quoted(signature_name, NAME)}")
    signature = servable.signatures[signature_name]
    if method_name == CLASSIFY_METHOD:
        examples.classification_outputs(signature)
    elif method_name == REGRESS_METHOD:
        examples.regression_output(signature)
    else:
        raise Unsupported(f"Unsupported signature method_name: {quoted(method_name, NAME)}")


def _classify(
    servable: Servable, signature_name: str, given: Sequence[Example], deadline: float | None, result: Any
) -> None:
    for classes in examples.classify(servable, signature_name, given, deadline):
        written = result.classifications.add().classes
        for label, score in classes:
            written.add(label=label, score=score)


def _regress(
    servable: Servable, signature_name: str, given: Sequence[Example], deadline: float | None, result: Any
) -> None:
    for value in examples.regress(servable, signature_name, given, deadline):
        result.regressions.add(value=value)


class _Features(Mapping[str, NDArray[Any]]):
    """A tf.Example message's, each made when it is asked for, and those of a context that it has not itself."""

    def __init__(self, example: Any, context: Mapping[str, NDArray[Any]]) -> None:
        self._messages = example.features.feature
        self._context = context

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._messages:
            return self._context[name]
        feature = _feature(self._messages[name])
        if feature is None:
            raise KeyError(name)
        return feature

    def __iter__(self) -> Iterator[str]:
        yield from self._messages
        yield from (name for name in self._context if name not in self._messages)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Context(Mapping[str, NDArray[Any]]):
    """The features of a context, each made once, when it is asked for: it stands for as many as there are examples."""

    def __init__(self, messages: Mapping[str, Any]) -> None:
        self._messages = messages
        self._made: dict[str, NDArray[Any] | None] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._made:
            self._made[name] = _feature(self._messages[name]) if name in self._messages else None
        feature = self._made[name]
        if feature is None:
            raise KeyError(name)
        return feature

    def __iter__(self) -> Iterator[str]:
        return iter(self._messages)

    def __len__(self) -> int:
        return len(self._messages)


class _Examples(Sequence[Example]):
    """Those of an Input message, each made when it is asked for: two bytes are an example, if there is a context."""

    def __init__(self, message: Any) -> None:
        has_context = message.WhichOneof("kind") == "example_list_with_context"
        self._messages = (message.example_list_with_context if has_context else message.example_list).examples
        context = message.example_list_with_context.context.features.feature
        self._context = _Context(context)

    # Any, as else slices would have to be told apart, which nobody takes here.
    def __getitem__(self, i: Any) -> Any:
        return _Features(self._messages[i], self._context)

    def __len__(self) -> int:
        return len(self._messages)


def _feature(message: Any) -> NDArray[Any] | None:
    """Return a feature's values; None if it is of no kind, which to TensorFlow is no feature."""
    kind = message.WhichOneof("kind")
    if not kind:
        return None
    values = getattr(message, kind).value
    if kind == "bytes_list":
        return np.array(list(values), object)
    return np.array(values, np.float32 if kind == "float_list" else np.int64)
