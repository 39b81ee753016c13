"""OpenVINO's string tensors, from and to arrays of bytes objects, byte for byte.

Python's binding goes by way of numpy's fixed-length strings: those lose zeros at the end of a string, and make each as
long as the longest, so that a few megabytes could ask for terabytes. OpenVINO's own operations for the purpose do
neither: they take strings apart into one array of bytes and where each begins and ends, and put them together again.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InvalidRequest
from runtime.openvino_core import DEVICE, core, openvino

_MOST = np.iinfo(np.int32).max
"""Bytes that all strings of a tensor may have together: positions are int32."""


_TOGETHER = 1 << 14
"""Strings that are joined, or cut, at a time: each takes 80 bytes meanwhile."""
MANY = 1 << 18
"""Strings from which on it matters that OpenVINO keeps the memory of the largest request, 32 bytes for each."""


def are_many(arrays: Iterable[NDArray[Any]]) -> bool:
    return any(array.dtype.hasobject and array.size > MANY for array in arrays)


def forget() -> None:
    """Let go of the memory that large requests have left here."""
    _packing.cache_clear()
    _unpacking.cache_clear()


def pack(array: NDArray[Any]) -> tuple[Any, Any]:
    """Return a tensor with the strings of an array of dtype object, and what has to be kept as long as the tensor.

    Raises:
        InvalidRequest: they have more than 2 GiB.
    """
    if not array.size:
        # The operations do not run for nothing, and would leave the answer of the time before.
        return openvino().Tensor(openvino().Type.string, list(array.shape)), None
    strings = array.ravel().tolist()
    ends = np.cumsum(np.fromiter(map(len, strings), np.int64, len(strings)), dtype=np.int64)
    if ends[-1] > _MOST:
        raise InvalidRequest(f"the strings of one input have {ends[-1]} bytes; want at most {_MOST}")
    begins = np.concatenate(([0], ends[:-1]))
    # One byte more than there is: nothing but empty strings is nothing too. Writable, as OpenVINO wants memory to be.
    content = bytearray().join(strings[:_TOGETHER])
    for i in range(_TOGETHER, len(strings), _TOGETHER):
        content += b"".join(strings[i : i + _TOGETHER])
    content += b"\0"
    characters = np.frombuffer(content, np.uint8)
    parts = [part.astype(np.int32).reshape(array.shape) for part in (begins, ends)]
    return _run(_packing(array.ndim), [*parts, characters])


def unpack(tensor: Any) -> NDArray[Any]:
    """Return the strings of a tensor as an array of dtype object, bytes in it."""
    shape = tuple(tensor.shape)
    if 0 in shape:
        return np.empty(shape, object)
    request = _unpacking(len(shape)).create_infer_request()
    request.set_input_tensor(0, tensor)
    request.start_async({}, None)
    request.wait()
    begins, ends, characters = (request.get_output_tensor(i).data for i in range(3))
    content = characters.tobytes()
    begins, ends = begins.reshape(-1), ends.reshape(-1)
    array = np.empty(begins.size, object)
    for i in range(0, begins.size, _TOGETHER):
        some = slice(i, i + _TOGETHER)
        array[some] = [
            content[begin:end] for begin, end in zip(begins[some].tolist(), ends[some].tolist(), strict=True)
        ]
    return array.reshape(shape)


def _run(compiled: Any, arrays: list[NDArray[Any]]) -> tuple[Any, Any]:
    ov = openvino()
    request = compiled.create_infer_request()
    for i, array in enumerate(arrays):
        request.set_input_tensor(i, ov.Tensor(array, shared_memory=True))
    # Not infer(), which returns the outputs too, by the way that is to be avoided.
    request.start_async({}, None)
    request.wait()
    return request.get_output_tensor(0), (request, arrays)


# By rank, as the CPU plugin compiles no input whose rank is open.
@cache
def _packing(rank: int) -> Any:
    types = openvino().Type
    inputs = [_parameter(types.i32, rank), _parameter(types.i32, rank), _parameter(types.u8, 1)]
    return _compile("StringTensorPack", inputs)


@cache
def _unpacking(rank: int) -> Any:
    return _compile("StringTensorUnpack", [_parameter(openvino().Type.string, rank)])


def _parameter(element_type: Any, rank: int) -> Any:
    ov = openvino()
    return ov.op.Parameter(element_type, ov.PartialShape([-1] * rank))


def _compile(operation: str, inputs: list[Any]) -> Any:
    """Compile a model of one operation of OpenVINO's."""
    ov = openvino()
    node = ov.NodeFactory("opset15").create(operation, [one.output(0) for one in inputs], {})
    model = ov.Model([ov.op.Result(output) for output in node.outputs()], inputs, operation)
    return core().compile_model(model, DEVICE, {})
