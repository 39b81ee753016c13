"""A servable of a model that takes any shape, and that OpenVINO compiles only for one shape at a time.

It is compiled for a shape when the first request of that shape comes, once for all who wait for it, while requests of
other shapes go on. A few shapes are kept at a time; the one that is least recently used goes first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

from model_cache.cache import ModelCache
from model_cache.errors import CacheFull, LoadFailed, LoadPending
from runtime.errors import CannotReshape, DeadlineExceeded, Overloaded, SignatureNotFound
from runtime.inputs import check_inputs
from runtime.servable import LoadPhases, Observed, Observer, Servable, Tensors, Usage
from runtime.signature import DEFAULT_SIGNATURE, Signature

SHAPES = 4
"""How many shapes a model is kept compiled for at a time, as each takes memory like a model of its own."""

Shapes = tuple[tuple[int, ...], ...]
"""Of all inputs, in the signature's order."""


class ShapedServable:
    """Made by `OpenVinoLoader`, which then says its size and phases."""

    size: int
    phases: LoadPhases
    # What has to be compiled first takes its time.
    is_quick = False
    is_kept = False

    def __init__(self, name: str, signature: Signature, concurrency: int, make: Callable[[Shapes], Servable]) -> None:
        """
        Args:
            signature: with open sizes, of which the inputs' are compiled for.
            concurrency: inferences of one shape at once.
            make: compiles for these shapes; raises LoadFailed if that cannot be.
        """
        self.resources = ExitStack()
        """What is held for as long as this lives. Closed by `close`."""
        self.signatures = {DEFAULT_SIGNATURE: signature}
        self.concurrency = concurrency
        self._name = name
        self._inputs = signature.inputs
        self.observer: Observer | None = None
        self._compiled = ModelCache[_Key, _Compiled](_ByShape(make), SHAPES)

    def __repr__(self) -> str:
        return f"<ShapedServable {self._name} {self._compiled}>"

    @property
    def usage(self) -> Usage:
        servables = [holding.value.servable for holding in self._compiled.snapshot().holdings if holding.value]
        there = [servable.usage for servable in servables if isinstance(servable, Observed)]
        return Usage(
            max((usage.streams for usage in there), default=1),
            sum(usage.active for usage in there),
            sum(usage.waiting for usage in there),
        )

    def predict(self, signature_name: str, inputs: Tensors, deadline: float | None = None) -> Tensors:
        if signature_name != DEFAULT_SIGNATURE:
            raise SignatureNotFound(f'Serving signature key "{signature_name}" not found.')
        check_inputs(self._inputs, inputs)
        key = _Key(self._name, tuple(inputs[name].shape for name in self._inputs))
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            with self._compiled.lease(key, timeout) as compiled:
                servable = compiled.servable
                if isinstance(servable, Observed):
                    servable.observer = self.observer
                return servable.predict(signature_name, inputs, deadline)
        except LoadFailed as exc:
            raise CannotReshape(str(exc)) from exc
        except LoadPending as exc:
            raise DeadlineExceeded(f"the request's time was over while {key} was compiled") from exc
        except CacheFull as exc:
            raise Overloaded(f"{self._name} is in use in {SHAPES} other shapes; there is no room for {key}") from exc

    def close(self) -> None:
        self._compiled.close()
        self.resources.close()


class _Key(NamedTuple):
    name: str
    shapes: Shapes

    def __str__(self) -> str:
        return f"{self.name} in shape {', '.join(map(str, self.shapes))}"


class _Compiled:
    """What a shape is to the cache: one of those that there is room for."""

    def __init__(self, servable: Servable) -> None:
        self.servable = servable
        self.size = 1

    def close(self) -> None:
        self.servable.close()


class _ByShape:
    def __init__(self, make: Callable[[Shapes], Servable]) -> None:
        self._make = make

    def estimate(self, key: _Key) -> int:
        return 1

    def load(self, key: _Key) -> _Compiled:
        return _Compiled(self._make(key.shapes))
