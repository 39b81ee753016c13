"""The answers of predict as JSON; `json_tensor` has the format.

orjson writes numpy arrays without making Python numbers of them, the shortest text that reads back the same, always
with a point or an exponent for floats. It has no token for what is not finite and writes null, which no array
contains otherwise; those are put right afterwards.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from runtime.codecs.dtypes import is_bfloat16, is_float, is_string
from runtime.errors import InvalidRequest
from runtime.servable import Tensors

# Possessive, or the matcher would remember each character of a string; and all that it looks for begins with a
# character of one class, which it finds several times as quickly as one of two patterns.
_NULL_OR_STRING = re.compile(rb'[n"](?:(?<=n)ull|(?<=")(?:[^"\\]++|\\.)*+")')
# Numbers up to a separator; or some strings with little between them; or what is before the next one.
_PART = re.compile(rb'[^"]{32768,65536}+[^",\]}]*+|(?:[^"]{0,255}+"(?:[^"\\]++|\\.)*+"){1,1024}+|[^"]++')
_SHORT = 4 << 10
_BLOCK = 1 << 16
"""Values that are looked at together."""
_TOKENS = np.array([b"NaN", b"Infinity", b"-Infinity"], object)


def encode(outputs: Tensors, is_row: bool) -> bytes:
    """Write the answer in the form of its request.

    Raises:
        InvalidRequest: rows were asked for, and the outputs do not have one for each; or there are no outputs.
    """
    if not outputs:
        raise InvalidRequest("Cannot convert empty tensor map to JSON")
    if is_row:
        # First, as making text of strings is not for nothing.
        size = _batch_size(outputs)
        return b'{"predictions":%b}' % _encode_rows(_all_plain(outputs), size)
    arrays = _all_plain(outputs)
    if len(arrays) == 1:
        (array,) = arrays.values()
        return b'{"outputs":%b}' % write(_value(array), [array])
    columns = {name: _value(array) for name, array in arrays.items()}
    return b'{"outputs":%b}' % write(columns, arrays.values())


def write(value: Any, arrays: Iterable[NDArray[Any]], leaves: Iterable[NDArray[Any]] | None = None) -> bytes:
    """Write ``value``, whose floats are those of ``arrays``, in the order of ``leaves`` if that is another."""
    text = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    # Of a short one it is quicker to look at what was written.
    if len(text) <= _SHORT and b"null" not in text:
        return text
    if all(np.isfinite(array).all() for array in arrays if is_float(array.dtype)):
        return text
    tokens = chain.from_iterable(_tokens(arrays if leaves is None else leaves))
    # Part by part, as each piece that bytes are joined of takes a hundred bytes more meanwhile.
    return b"".join([_put_right(part[0], tokens) for part in _PART.finditer(text)])


def _put_right(text: bytes, tokens: Iterator[bytes]) -> bytes:
    """Write the next tokens in place of null."""
    if b'"' in text:
        return _NULL_OR_STRING.sub(lambda match: next(tokens) if match[0] == b"null" else match[0], text)
    between = text.split(b"null")
    pieces = [b""] * (2 * len(between) - 1)
    pieces[::2] = between
    pieces[1::2] = islice(tokens, len(between) - 1)
    return b"".join(pieces)


def _tokens(leaves: Iterable[NDArray[Any]]) -> Iterator[list[bytes]]:
    """Return what is written for the values that are not finite, some at a time."""
    for leaf in leaves:
        if is_float(leaf.dtype):
            flat = leaf.reshape(-1)
            for i in range(0, flat.size, _BLOCK):
                values = flat[i : i + _BLOCK]
                odd = values[~np.isfinite(values)]
                yield _TOKENS[(odd > 0) + 2 * (odd < 0)].tolist()


def _encode_rows(arrays: dict[str, NDArray[Any]], size: int) -> bytes:
    if len(arrays) == 1:
        (array,) = arrays.values()
        return write(_value(array), [array])
    rows = [{name: _value(array[i, ...]) for name, array in arrays.items()} for i in range(size)]
    return write(rows, arrays.values(), _beside(arrays.values(), size))


def _beside(arrays: Iterable[NDArray[Any]], size: int) -> Iterator[NDArray[Any]]:
    """Join the floats of each row, some rows at a time."""
    floats = [array.reshape(size, -1) for array in arrays if is_float(array.dtype)]
    step = max(_BLOCK // max(sum(array.shape[1] for array in floats), 1), 1)
    for i in range(0, size, step):
        yield np.concatenate([array[i : i + step] for array in floats], axis=1)


def _batch_size(outputs: Tensors) -> int:
    size: int | None = None
    for name, array in outputs.items():
        if not array.ndim:
            raise InvalidRequest(f"Tensor name: {name} has no shape information; ask for it in columns ('inputs')")
        size = len(array) if size is None else size
        if len(array) != size:
            raise InvalidRequest(
                f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {size}; "
                "ask for it in columns ('inputs')"
            )
    return size or 0


def _all_plain(outputs: Tensors) -> dict[str, NDArray[Any]]:
    return {
        name: _as_text(array, is_bytes=name.endswith("_bytes")) if is_string(array.dtype) else plain(array)
        for name, array in outputs.items()
    }


def plain(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array as orjson takes it: of a dtype it knows, in this machine's byte order, row by row."""
    dtype = array.dtype
    if dtype.isnative and array.flags.c_contiguous and not is_bfloat16(dtype):
        return array
    dtype = np.dtype(np.float32) if is_bfloat16(dtype) else dtype.newbyteorder("=")
    return array.astype(dtype, order="C", copy=False)


def _as_text(array: NDArray[Any], is_bytes: bool) -> NDArray[Any]:
    """Make JSON's strings of bytes, or base64 objects where the name asks for them.

    Where it does not, and yet one of the strings is no UTF-8, all are base64: TensorFlow Serving would write what is
    not JSON, and a client can tell one kind of elements more easily than two.
    """
    flat = array.ravel().tolist()
    values: list[Any]
    try:
        values = [_base64(value) for value in flat] if is_bytes else [value.decode() for value in flat]
    except UnicodeDecodeError:
        values = [_base64(value) for value in flat]
    return np.array(values, object).reshape(array.shape)


def _base64(value: bytes) -> dict[str, str]:
    return {"b64": b2a_base64(value, newline=False).decode()}


def _value(array: NDArray[Any]) -> Any:
    if is_string(array.dtype):
        return array.tolist()
    # orjson takes arrays of rank 1 and more, and numpy's scalars.
    return array if array.ndim else array[()]
