"""A model that OpenVINO compiles for one shape at a time: what waits, what does not, and what is kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_cache.errors import LoadFailed
from runtime.errors import CannotReshape, DeadlineExceeded, InvalidRequest, Overloaded, SignatureNotFound
from runtime.memory import upper_bound
from runtime.openvino_core import openvino
from runtime.options import ANY, AUTO, Layout, ModelOptions
from runtime.servable import LoadPhases, Observer, Tensors, Usage
from runtime.shaped_servable import SHAPES, ShapedServable, Shapes
from runtime.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from runtime.status import Code, code_of, http_status_of
from tests.fakes import Gate, until
from tests.runtime import models

# After the tests' models, which keep telemetry out.
from openvino import opset13 as ops  # isort: skip

F32 = np.dtype(np.float32)
SIGNATURE = Signature({"x": TensorSpec("x", F32, (-1, -1))}, {"y": TensorSpec("y", F32, (-1, -1))})


class OfOneShape:
    """``y = x``, of one shape."""

    size = 1
    phases = LoadPhases(None, 0, 0)
    concurrency = 1
    is_quick = True
    is_kept = False
    observer: Observer | None = None
    usage = Usage(2, 1, 0)

    def __init__(self, shape: tuple[int, ...], gate: Gate | None) -> None:
        self.signatures = {DEFAULT_SIGNATURE: SIGNATURE}
        self.shape = shape
        self.gate = gate
        self.is_closed = False

    def predict(self, signature_name: str, inputs: Tensors, deadline: float | None = None) -> Tensors:
        assert not self.is_closed
        assert inputs["x"].shape == self.shape
        if self.gate:
            self.gate.pass_through()
        return {"y": inputs["x"]}

    def close(self) -> None:
        self.is_closed = True


class Workshop:
    """Compiles for every shape but those that are broken."""

    def __init__(self) -> None:
        self.made: list[OfOneShape] = []
        self.gates: dict[tuple[int, ...], Gate] = {}
        """By shape, what its compilation goes through."""
        self.slow: dict[tuple[int, ...], Gate] = {}
        """By shape, what each inference goes through."""
        self.broken: set[tuple[int, ...]] = set()

    def make(self, shapes: Shapes) -> OfOneShape:
        (shape,) = shapes
        if gate := self.gates.get(shape):
            gate.pass_through()
        if shape in self.broken:
            raise LoadFailed(f"cannot load model/1: {shape}")
        self.made.append(OfOneShape(shape, self.slow.get(shape)))
        return self.made[-1]

    @property
    def there(self) -> list[tuple[int, ...]]:
        return [servable.shape for servable in self.made if not servable.is_closed]


@contextmanager
def shaped() -> Iterator[tuple[ShapedServable, Workshop]]:
    workshop = Workshop()
    servable = ShapedServable("model/1", SIGNATURE, 1, workshop.make)
    try:
        yield servable, workshop
    finally:
        servable.close()
        until(lambda: not workshop.there)


def ask(servable: ShapedServable, *shape: int, seconds: float | None = None) -> tuple[int, ...]:
    deadline = None if seconds is None else time.monotonic() + seconds
    answer = servable.predict(DEFAULT_SIGNATURE, {"x": np.zeros(shape, np.float32)}, deadline)
    return answer["y"].shape


def test_each_shape_is_compiled_once() -> None:
    with shaped() as (servable, workshop):
        for shape in ((1, 2), (2, 2), (1, 2), (2, 2)):
            assert ask(servable, *shape) == shape
        assert workshop.there == [(1, 2), (2, 2)]


def test_all_who_want_a_new_shape_wait_for_one_compilation_and_nobody_else_does() -> None:
    with shaped() as (servable, workshop), ThreadPoolExecutor(5) as pool:
        ask(servable, 1, 1)
        gate = workshop.gates[9, 9] = Gate()
        waiting = [pool.submit(ask, servable, 9, 9) for _ in range(4)]
        gate.wait_until_reached()
        assert ask(servable, 1, 1) == (1, 1)
        assert ask(servable, 2, 2) == (2, 2)
        assert not any(each.done() for each in waiting)
        gate.open()
        assert [each.result() for each in waiting] == [(9, 9)] * 4
        assert workshop.there.count((9, 9)) == 1


def test_only_a_few_shapes_are_kept_the_least_recently_used_goes_first() -> None:
    with shaped() as (servable, workshop):
        for size in range(SHAPES):
            ask(servable, size, 1)
        ask(servable, 0, 1)
        ask(servable, 99, 1)
        assert workshop.there == [(0, 1), *((size, 1) for size in range(2, SHAPES)), (99, 1)]


def test_who_wants_a_shape_while_all_others_are_in_use_is_told_to_come_back() -> None:
    with shaped() as (servable, workshop), ThreadPoolExecutor(SHAPES) as pool:
        for size in range(SHAPES):
            workshop.slow[size, 1] = Gate()
        running = [pool.submit(ask, servable, size, 1) for size in range(SHAPES)]
        for gate in workshop.slow.values():
            gate.wait_until_reached()
        with pytest.raises(Overloaded, match=r"there is no room for model/1 in shape \(9, 9\)"):
            ask(servable, 9, 9, seconds=0.05)
        for gate in workshop.slow.values():
            gate.open()
        assert len([each.result() for each in running]) == SHAPES


def test_who_has_no_more_time_does_not_wait_for_a_compilation_which_goes_on() -> None:
    with shaped() as (servable, workshop):
        gate = workshop.gates[9, 9] = Gate()
        with pytest.raises(DeadlineExceeded, match=r"model/1 in shape \(9, 9\) was compiled"):
            ask(servable, 9, 9, seconds=0.05)
        gate.open()
        until(lambda: workshop.there == [(9, 9)])
        assert ask(servable, 9, 9) == (9, 9)


def test_a_shape_that_cannot_be_compiled_is_a_precondition_and_does_no_harm() -> None:
    with shaped() as (servable, workshop):
        workshop.broken.add((9, 9))
        with pytest.raises(CannotReshape) as caught:
            ask(servable, 9, 9)
        assert ask(servable, 1, 1) == (1, 1)
    assert str(caught.value).startswith("Model could not be reshaped with requested shape. cannot load model/1: (9, 9)")
    assert (http_status_of(caught.value), code_of(caught.value)) == (412, Code.FAILED_PRECONDITION)


def test_what_does_not_fit_the_signature_is_not_compiled_for() -> None:
    with shaped() as (servable, workshop):
        with pytest.raises(InvalidRequest, match="Invalid number of shape dimensions"):
            ask(servable, 1, 2, 3)
        with pytest.raises(SignatureNotFound):
            servable.predict("other", {"x": np.zeros((1, 1), np.float32)})
        assert workshop.made == []


def test_it_is_observed_in_all_its_shapes() -> None:
    class Silent:
        def ran(self, waited: float, took: float) -> None: ...

        def stacked(self, rows: int) -> None: ...

    observer = Silent()
    with shaped() as (servable, workshop):
        assert servable.usage == Usage(1, 0, 0)
        ask(servable, 1, 1)
        servable.observer = observer
        ask(servable, 1, 1)
        ask(servable, 2, 2)
        assert servable.observer is observer
        assert [made.observer for made in workshop.made] == [observer, observer]
        assert servable.usage == Usage(2, 2, 0)


def pooling() -> Any:
    """Position-sensitive pooling, which OpenVINO compiles for no open shape: ``y = the means of quarters of x``."""
    x = ops.parameter([1, 8, 4, 4], np.float32, name="x")
    x.output(0).get_tensor().set_names({"x"})
    boxes = ops.constant(np.array([[0, 0, 0, 2, 2]], np.float32))
    y = ops.psroi_pooling(x, boxes, 2, 2, 0.5, 1, 1, "average")
    y.output(0).get_tensor().set_names({"y"})
    return openvino().Model([ops.result(y)], [x], "pooling")


def test_a_model_that_openvino_compiles_for_no_open_shape_takes_any_all_the_same(tmp_path: Path) -> None:
    models.save(pooling(), tmp_path)
    with models.configured(tmp_path, ModelOptions(shape=((ANY, AUTO),))) as servable:
        assert isinstance(servable, ShapedServable)
        signature = servable.signatures[DEFAULT_SIGNATURE]
        assert signature.inputs["x"].shape == (-1,) * 4
        assert signature.outputs["y"].shape == (-1,) * 4
        # There is room for as many as there may be, though none is there yet.
        assert servable.size >= SHAPES * upper_bound(models.version_at(tmp_path).size)
        for shape in ((1, 8, 4, 4), (1, 8, 6, 9)):
            y = servable.predict(DEFAULT_SIGNATURE, {"x": np.ones(shape, np.float32)})["y"]
            assert y.shape == (1, 2, 2, 2)
        with pytest.raises(CannotReshape, match="Model could not be reshaped with requested shape"):
            servable.predict(DEFAULT_SIGNATURE, {"x": np.ones((1, 7, 4, 4), np.float32)})


def test_with_auto_for_the_batch_alone_the_other_sizes_are_as_the_layout_leaves_them(tmp_path: Path) -> None:
    models.save(pooling(), tmp_path)
    options = ModelOptions(batch_size=AUTO, layout=((ANY, Layout("NHWC", "NCHW")),))
    with models.configured(tmp_path, options) as servable:
        signature = servable.signatures[DEFAULT_SIGNATURE]
        assert (signature.inputs["x"].shape, signature.inputs["x"].layout) == ((-1, 4, 4, 8), "NHWC")
        servable.predict(DEFAULT_SIGNATURE, {"x": np.ones((3, 4, 4, 8), np.float32)})
        with pytest.raises(InvalidRequest, match=r"want \(-1, 4, 4, 8\)"):
            servable.predict(DEFAULT_SIGNATURE, {"x": np.ones((3, 5, 4, 8), np.float32)})
