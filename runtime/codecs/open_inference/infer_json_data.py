"""The values of inputs in JSON, read once there is a model for them: by the fast reader, or else by the exact one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from numpy.typing import NDArray

from runtime.codecs import json_limits
from runtime.codecs.open_inference import infer_json_fast
from runtime.codecs.open_inference.infer_json_shapes import Tensor


class Data:
    """What one body has of values; for one thread at a time. What is read stays, to be asked for again."""

    def __init__(self, body: bytes, *, is_fast: bool, is_kept: bool) -> None:
        """Take a body that has been parsed.

        Args:
            body: the JSON.
            is_fast: whether by `infer_json_fast`, whose values are simdjson's.
            is_kept: whether values are kept until they are read, or else parsed again: the text of a large body takes
                less room.
        """
        self._body = body
        self._is_fast = is_fast
        self._values: list[Any] | None = [] if is_kept else None
        self._tensors: list[Tensor] = []
        self._arrays: list[NDArray[Any]] | None = None
        self.lists = 0
        """How many there are in the body besides those of the values."""

    def add(self, tensor: Tensor, value: Any) -> Callable[[float | None], NDArray[Any]]:
        """Take what an input has as ``data``, and return `Input.read` of it."""
        self._tensors.append(tensor)
        if self._values is not None:
            self._values.append(value)
        return partial(self._read, len(self._tensors) - 1)

    def _read(self, i: int, deadline: float | None) -> NDArray[Any]:
        # All at once, as what was parsed goes at once.
        if self._arrays is None:
            self._arrays = self._read_all(deadline)
            self._values = None
        return self._arrays[i]

    def _read_all(self, deadline: float | None) -> list[NDArray[Any]]:
        if self._is_fast and self._values is not None:
            arrays = infer_json_fast.read(self._body, self.lists, self._tensors, self._values, deadline)
            if arrays is not None:
                return arrays
            # Its tape is several times as large as the body.
            self._values = None
        # Imported by requests that need it.
        from runtime.codecs import json_exact
        from runtime.codecs.open_inference import infer_json_exact

        if self._values is not None:
            return infer_json_exact.read(self._tensors, self._values, deadline)
        with json_limits.alone(self._body, deadline):
            # Whatever has parsed it once takes nothing that rapidjson refuses.
            inputs = json_exact.parse(self._body, is_strict=True)["inputs"]
            return infer_json_exact.read(
                self._tensors, [inputs[tensor.position]["data"] for tensor in self._tensors], deadline
            )
