"""The binary data behind a request's JSON, taken apart: the inputs without ``data`` have it, in their order."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, NamedTuple

from numpy.typing import NDArray

from runtime.answers import JSON_SIZE
from runtime.codecs.dtypes import is_string
from runtime.codecs.open_inference import raw
from runtime.codecs.open_inference.inference import Parameter
from runtime.errors import NAME, QUOTED, InvalidRequest, quoted, shown
from runtime.signature import Dtype

_DIGITS = 18
_MAX_SIZES = 4096
"""Strings of one input that have no lengths of their own, which is for images."""
_NO_HEADER = f"there is no {JSON_SIZE}"


class Taken(NamedTuple):
    """See `Input`."""

    read: Callable[[float | None], NDArray[Any]]
    packed: memoryview | bytes = b""


class Tail:
    def __init__(self, data: memoryview, has_header: bool) -> None:
        self._data = data
        self._has_header = has_header
        self._at = 0
        self._last = ""

    def take(self, name: str, dtype: Dtype, shape: tuple[int, ...], declared: Parameter | None, is_last: bool) -> Taken:
        """Return what the next input has.

        Args:
            declared: its ``binary_data_size``.
            is_last: whether no input follows that has some too.

        Raises:
            InvalidRequest: it is not as much as the input is of, or not there.
        """
        if declared is None and not self._has_header:
            raise raw.error(name, f"has neither data nor binary data: {_NO_HEADER}")
        sizes = _sizes(name, dtype, shape, declared) if isinstance(declared, str) else None
        size = sum(sizes) if sizes is not None else self._size(name, dtype, shape, declared, is_last)
        left = len(self._data) - self._at
        if size > left:
            # OpenVINO Model Server's text is part of ours.
            raise raw.error(
                name,
                f"wants {size} bytes of binary data; {left} are left behind the JSON"
                f"{'' if self._has_header else f', as {_NO_HEADER}'}: Received buffer size is smaller than "
                "binary_data_size parameter indicates",
            )
        data = self._data[self._at : self._at + size]
        self._at += size
        self._last = name
        if sizes is not None:
            return Taken(partial(raw.decode_bare, shape, sizes, data))
        raw.check(name, dtype, shape, size)
        return Taken(partial(raw.decode, name, dtype, shape, data), data if is_string(dtype) else b"")

    def check_end(self) -> None:
        """Raise InvalidRequest if something is left when all inputs have taken theirs."""
        left = len(self._data) - self._at
        if left:
            last = (
                f"those of input '{quoted(self._last, NAME)}', the last"
                if self._last
                else "the JSON, which has all data"
            )
            raise InvalidRequest(f"{left} bytes are left behind {last}; want none")

    def _size(self, name: str, dtype: Dtype, shape: tuple[int, ...], declared: Parameter | None, is_last: bool) -> int:
        if declared is not None:
            if not isinstance(declared, int) or isinstance(declared, bool) or declared < 0:
                raise _invalid(name, declared, "a number of bytes")
            return declared
        if not is_string(dtype):
            return prod(shape) * dtype.itemsize
        if not is_last:
            raise raw.error(name, "has no binary_data_size; want it, as other binary data follow its strings")
        return len(self._data) - self._at


def _sizes(name: str, dtype: Dtype, shape: tuple[int, ...], declared: str) -> list[int]:
    """Return the sizes of strings that have no lengths of their own: OpenVINO Model Server's way until 2022.3."""
    count = prod(shape)
    if not is_string(dtype):
        raise _invalid(name, declared, "a number of bytes")
    if declared.isascii() and declared.count(",") + 1 == count:
        if count > _MAX_SIZES:
            raise _invalid(name, declared, f"at most {_MAX_SIZES} with commas between them")
        sizes = declared.split(",")
        if all(size.isdecimal() and len(size) <= _DIGITS for size in sizes):
            return list(map(int, sizes))
    raise _invalid(name, declared, f"a number of bytes, or {count} with commas between them")


def _invalid(name: str, declared: Parameter, want: str) -> InvalidRequest:
    return raw.error(
        name,
        f"has the binary_data_size {quoted(shown(declared), QUOTED - NAME)}; want {want}: binary_data_size parameter "
        "is invalid and cannot be parsed",
    )
