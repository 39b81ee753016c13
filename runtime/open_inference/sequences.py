"""Which sequence of a stateful model a request is of: said by tensors, as to OpenVINO Model Server, or by Triton's
parameters.

Triton's: extension_sequence.md of triton-inference-server/server.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from runtime.codecs.open_inference.datatypes import datatype_of
from runtime.codecs.open_inference.inference import Input, Parameters
from runtime.errors import InvalidRequest, shown
from runtime.inputs import listed
from runtime.sequences import Control
from runtime.servable import Tensors
from runtime.signature import TensorSpec
from runtime.stateful_servable import CONTROL, ID

_NUMBER, _START, _END = "sequence_id", "sequence_start", "sequence_end"
_LARGEST = (1 << 64) - 1


def special_inputs(
    specs: Mapping[str, TensorSpec], given: Mapping[str, Input], parameters: Parameters, deadline: float | None
) -> Tensors:
    """Return the special inputs as arrays.

    Args:
        specs: of the special inputs.
        given: all of the request's inputs.
        parameters: the request's.
        deadline: in seconds of the monotonic clock.

    Raises:
        InvalidRequest: they say nothing that makes sense.
    """
    number, control = _of_parameters(parameters)
    tensors = [given[name] for name in specs if name in given]
    if not tensors:
        return {ID.name: np.array([number], ID.dtype), CONTROL.name: np.array([control], CONTROL.dtype)}
    if number or control is not Control.CONTINUE:
        raise InvalidRequest(
            f"the sequence is in the inputs {listed(one.name for one in tensors)} and in the parameters {_NUMBER}, "
            f"{_START} or {_END}; want one of the two"
        )
    for one in tensors:
        spec = specs[one.name]
        if one.dtype != spec.dtype:
            want, got = datatype_of(spec.dtype), datatype_of(one.dtype)
            raise InvalidRequest(
                f"input '{one.name}' has datatype {got}; want {want}: Invalid input precision - Expected: {want}; "
                f"Actual: {got}; input name: {one.name}"
            )
        spec.require(one.shape)
    return {one.name: one.read(deadline) for one in tensors}


def _of_parameters(parameters: Parameters) -> tuple[int, Control]:
    number = parameters.get(_NUMBER, 0)
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= _LARGEST:
        raise InvalidRequest(
            f"parameter '{_NUMBER}' is {shown(number)}; want a number from 1 to {_LARGEST}, as the sequences of this "
            "server's models have no other names"
        )
    is_start, is_end = (_flag(parameters, name) for name in (_START, _END))
    if is_start and is_end:
        raise InvalidRequest(
            f"parameters '{_START}' and '{_END}' are both true; want one of them at most, as a sequence has two "
            "requests or more"
        )
    return number, Control.START if is_start else Control.END if is_end else Control.CONTINUE


def _flag(parameters: Parameters, name: str) -> bool:
    flag = parameters.get(name, False)
    if not isinstance(flag, bool):
        raise InvalidRequest(f"parameter '{name}' is {shown(flag)}; want true or false")
    return flag
