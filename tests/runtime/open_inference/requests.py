"""Inference requests as the codecs make them, of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from runtime.codecs.open_inference.inference import InferRequest, Input, Wanted
from runtime.servable import Tensors
from runtime.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from tests.runtime.servables import HalfPlusTwo


def given(name: str, array: NDArray[Any], read: list[str] | None = None) -> Input:
    """An input that notes that it is read."""

    def get(deadline: float | None) -> NDArray[Any]:
        if read is not None:
            read.append(name)
        return array

    return Input(name, array.dtype, array.shape, get)


def request(*outputs: str | Wanted, id: str = "", parameters: Any = None, **inputs: NDArray[Any]) -> InferRequest:
    wanted = [Wanted(output) if isinstance(output, str) else output for output in outputs]
    return InferRequest([given(name, array) for name, array in inputs.items()], wanted, id, parameters or {})


class Mirror(HalfPlusTwo):
    """Answers each input with itself, as ``<name>_out``, in the order of its own that is not the request's."""

    def __init__(self, *specs: TensorSpec, special: Sequence[TensorSpec] = ()) -> None:
        super().__init__(1)
        inputs = {spec.name: spec for spec in specs}
        sequence = {spec.name: spec for spec in special}
        outputs = {f"{name}_out": spec for name, spec in inputs.items()}
        self.signatures = {
            DEFAULT_SIGNATURE: Signature(
                inputs,
                outputs,
                special_inputs=sequence,
                special_outputs={name: spec for name, spec in sequence.items() if name == "sequence_id"},
            )
        }
        self.given: dict[str, Any] = {}

    def predict(self, signature_name: str, inputs: Tensors, deadline: float | None = None) -> Tensors:
        if self.bug is not None:
            raise self.bug
        signature = self.signatures[signature_name]
        for name, spec in signature.inputs.items():
            assert inputs[name].dtype == spec.dtype
            spec.require(inputs[name].shape)
        self.given = {name: array.tolist() for name, array in inputs.items()}
        own = {f"{name}_out": inputs[name] for name in reversed(list(signature.inputs))}
        return {**own, **{name: inputs[name] for name in signature.special_outputs}}
