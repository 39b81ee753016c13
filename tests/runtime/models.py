"""Small real models, made with OpenVINO's own operations, and how tests load them.

Precision is pinned where they are loaded: on a CPU with bfloat16 arithmetic OpenVINO would use it, and what a test
wants exactly would come out approximately.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from model_cache.disk import DiskCache
from model_cache.local import LocalStorage
from model_cache.repository import ModelRepository, ModelVersion
from runtime.engine import OpenVinoLoader
from runtime.openvino_core import openvino
from runtime.openvino_servable import OpenVinoServable
from runtime.options import DEFAULTS, ModelOptions
from runtime.signature import Dtype
from tests.fakes import MemoryStorage

openvino()
# After that call, which keeps telemetry out.
import openvino as ov  # noqa: E402
from openvino import opset13 as ops  # noqa: E402

F32 = {"INFERENCE_PRECISION_HINT": "f32"}
DYNAMIC = -1

DTYPES: dict[str, Dtype] = {
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "i8": np.dtype(np.int8),
    "i16": np.dtype(np.int16),
    "i32": np.dtype(np.int32),
    "i64": np.dtype(np.int64),
    "u8": np.dtype(np.uint8),
    "u16": np.dtype(np.uint16),
    "u32": np.dtype(np.uint32),
    "u64": np.dtype(np.uint64),
    "boolean": np.dtype(np.bool_),
}
"""OpenVINO's names of the element types that a model's inputs and outputs may have -> numpy's dtypes."""


def doubler(element_type: str = "f32", shape: Any = (DYNAMIC, 2)) -> Any:
    """``y = x + x``, or ``not x`` for booleans."""
    x = _input("x", element_type, shape)
    return _model([x], y=ops.logical_not(x) if element_type == "boolean" else ops.add(x, x))


def of_one(operation: Callable[[Any], Any], element_type: str = "f32", shape: Any = (DYNAMIC, 2)) -> Any:
    """``y = operation(x)``."""
    x = _input("x", element_type, shape)
    return _model([x], y=operation(x))


def identity(element_type: str) -> Any:
    """``x``, as it came in: even the 64 bits of which the CPU would compute with 32."""
    x = _input("x", element_type, (DYNAMIC, 2))
    return openvino().Model([ops.result(x)], [x], "identity")


def crossing() -> Any:
    """``total = sum of each row of left``, ``doubled = right + right``: two of each, no two shapes alike."""
    left, right = _input("left", "f32", (DYNAMIC, 3)), _input("right", "i32", (2, DYNAMIC))
    return _model([left, right], total=ops.reduce_sum(left, np.array([1])), doubled=ops.add(right, right))


def adder() -> Any:
    """``y = a + b``, which only sizes that are equal go through, or a size of 1."""
    a, b = _input("a", "f32", (DYNAMIC,)), _input("b", "f32", (DYNAMIC,))
    return _model([a, b], y=ops.add(a, b))


def spreader() -> Any:
    """``y = left + right`` of shapes (1, 1) and (1, 4)."""
    left, right = _input("left", "f32", (1, 1)), _input("right", "f32", (1, 4))
    return _model([left, right], y=ops.add(left, right))


def shifter() -> Any:
    """``y = x + [0, 1, 2, 3]``, of shape (1, 1)."""
    x = _input("x", "f32", (1, 1))
    return _model([x], y=ops.add(x, ops.constant(np.arange(4, dtype=np.float32))))


def chain() -> Any:
    """``y = a + a``, and ``z = y + b``, which only as many rows go through, or one."""
    a, b = _input("a", "f32", (DYNAMIC, 2)), _input("b", "f32", (DYNAMIC, 2))
    y = ops.add(a, a)
    return _model([a, b], y=y, z=ops.add(y, b))


def reshaper() -> Any:
    """``y = x in the shape that is asked for``, which fails while it runs if x is not of that size."""
    x, shape = _input("x", "f32", (4,)), _input("shape", "i64", (2,))
    return _model([x, shape], y=ops.reshape(x, shape, False))


def twins() -> Any:
    """A model with two outputs of one name."""
    x = _input("x", "f32", (DYNAMIC,))
    y = ops.add(x, x)
    y.output(0).get_tensor().set_names({"y"})
    return openvino().Model([ops.result(y), ops.result(y)], [x], "twins")


def summer() -> Any:
    """``total = sum of x``, a scalar."""
    x = _input("x", "f32", (DYNAMIC,))
    return _model([x], total=ops.reduce_sum(x, np.array([0])))


def divider() -> Any:
    """``y = x / 0``: NaN for 0, an infinity of its sign for every other number."""
    x = _input("x", "f32", (DYNAMIC,))
    return _model([x], y=ops.divide(x, np.array(0, np.float32)))


def weighty(size: int = 64) -> Any:
    """``y = x @ w``, a model whose .bin has something in it."""
    x = _input("x", "f32", (DYNAMIC, size))
    weights = np.arange(size * size, dtype=np.float32).reshape(size, size)
    return _model([x], y=ops.matmul(x, ops.constant(weights), False, False))


def shape_of(element_type: str) -> Any:
    """``y = shape of x``, which there is for types that cannot be computed with."""
    x = _input("x", element_type, (2,))
    return _model([x], y=ops.shape_of(x))


def speller(rank: int = 1) -> Any:
    """Of strings ``x``: ``y``, the same, and ``length`` of each in bytes."""
    # From the fifteenth set on there are operations on strings.
    from openvino import opset15

    x = _input("x", "string", (DYNAMIC,) * rank)
    parts = opset15.string_tensor_unpack(x)
    begins, ends, characters = (parts.output(i) for i in range(3))
    return _model([x], y=opset15.string_tensor_pack(begins, ends, characters), length=ops.subtract(ends, begins))


def slow(steps: int = 300) -> Any:
    """``y = x @ w`` again and again: 2,000 rows of ones take the best part of a second."""
    x = _input("x", "f32", (DYNAMIC, 512))
    # Ones stay ones: numbers that go to nothing would be slower by far.
    weights = ops.constant(np.full((512, 512), 1 / 512, np.float32))
    y = x
    for _ in range(steps):
        y = ops.relu(ops.matmul(y, weights, False, False))
    return _model([x], y=y)


def accumulator(shape: Any = (1, 2), element_type: str = "f32") -> Any:
    """``y = x + the state``, which is the state of the next inference; the first is zeros."""
    x = _input("x", element_type, shape)
    dtype = DTYPES[element_type]
    zeros = ops.constant(np.zeros([max(size, 1) for size in shape], dtype))
    y = ops.add(x, ops.read_value(zeros, "sum", dtype, list(shape)))
    return _model([x], [ops.assign(y, "sum")], y=y)


def rows_accumulator() -> Any:
    """As `accumulator`, of any number of rows, which begins with zeros for each of the request's own."""
    x = _input("x", "f32", (DYNAMIC, 2))
    zeros = ops.broadcast(ops.constant(np.zeros((1, 1), np.float32)), ops.shape_of(x))
    y = ops.add(x, ops.read_value(zeros, "sum", np.float32, [DYNAMIC, 2]))
    return _model([x], [ops.assign(y, "sum")], y=y)


def slow_accumulator(steps: int = 100) -> Any:
    """As `accumulator`, of the means of x's rows of 512, after a way as long as that of `slow`."""
    x = _input("x", "f32", (DYNAMIC, 512))
    weights = ops.constant(np.full((512, 512), 1 / 512, np.float32))
    y = x
    for _ in range(steps):
        y = ops.relu(ops.matmul(y, weights, False, False))
    before = ops.read_value(ops.constant(np.zeros((1, 512), np.float32)), "sum", np.float32, [1, 512])
    y = ops.add(before, ops.reduce_mean(y, np.array([0]), True))
    return _model([x], [ops.assign(y, "sum")], y=y)


def collector() -> Any:
    """``y = all x so far``: a state that grows."""
    x = _input("x", "f32", (1, DYNAMIC))
    so_far = ops.read_value(ops.constant(np.zeros((1, 0), np.float32)), "so_far", np.float32, [1, DYNAMIC])
    y = ops.concat([so_far, x], 1)
    return _model([x], [ops.assign(y, "so_far")], y=y)


def looper() -> Any:
    """``y = x``, by a loop of one step that adds what it had before, of which OpenVINO's LowLatency2 makes a state."""
    x = _input("x", "f32", (1, 1, 2))
    part, before = (ops.parameter([1, 1, 2], np.float32) for _ in range(2))
    result = ops.result(ops.add(part, before))
    loop = ops.tensor_iterator()
    loop.set_body(ov.Model([result], [part, before], "body"))
    loop.set_sliced_input(part, x.output(0), 0, 1, 1, -1, 1)
    loop.set_merged_input(before, ops.constant(np.zeros((1, 1, 2), np.float32)).output(0), result.output(0))
    return _model([x], y=ops.relu(loop.get_concatenated_slices(result.output(0), 0, 1, 1, -1, 1)))


def nameless() -> Any:
    """A model whose tensors have no names; only its nodes do."""
    x = ops.parameter([DYNAMIC, 2], openvino().Type.f32, name="data")
    return openvino().Model([ops.result(ops.add(x, x), name="answer")], [x], "nameless")


def save(model: Any, base: Path, version: int = 1) -> Path:
    """Save the model as a version below ``base``; return the version's directory."""
    directory = base / str(version)
    directory.mkdir(parents=True)
    ov.save_model(ov.Model(model), directory / "model.xml", compress_to_fp16=False)
    return directory


def extension(directory: Path) -> str:
    """Make a library of operations with none in it, as OpenVINO loads them; return its path."""
    source, library = directory / "extension.c", directory / "extension.so"
    # OpenVINO gives it a list to add to.
    source.write_text("void create_extensions(void *extensions) { (void)extensions; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return str(library)


def files_at(base: Path) -> DiskCache:
    return DiskCache(base / "cache", 1 << 30)


def loader(files: DiskCache, **config: str) -> OpenVinoLoader:
    return OpenVinoLoader(files, {**F32, **config})


def load(base: Path, version: int = 1) -> OpenVinoServable:
    return load_by(loader(files_at(base)), version_at(base, version))


def load_by(by: OpenVinoLoader, version: ModelVersion) -> OpenVinoServable:
    """Load a version that OpenVINO compiles once for all shapes."""
    servable = by.load(version)
    assert isinstance(servable, OpenVinoServable)
    return servable


def version_at(base: Path, version: int = 1, options: ModelOptions = DEFAULTS) -> ModelVersion:
    return ModelRepository("model", LocalStorage(base), options=options).find(version)


def version_in_bucket(base: Path, version: int = 1, options: ModelOptions = DEFAULTS) -> ModelVersion:
    """The same, stored where it has to be fetched from."""
    files = [path for path in (base / str(version)).rglob("*") if path.is_file()]
    blobs = {path.relative_to(base).as_posix(): path.read_bytes() for path in files}
    return ModelRepository("model", MemoryStorage(blobs), options=options).find(version)


@contextmanager
def loaded(base: Path, **config: str) -> Iterator[OpenVinoServable]:
    """Version 1 of what is saved below ``base``, loaded for the length of a with block."""
    servable = load_by(loader(files_at(base), **config), version_at(base))
    try:
        yield servable
    finally:
        servable.close()


@contextmanager
def configured(base: Path, options: ModelOptions, **config: str) -> Iterator[Any]:
    """Version 1 of what is saved below ``base``, loaded as the options say."""
    servable = loader(files_at(base), **config).load(version_at(base, options=options))
    try:
        yield servable
    finally:
        servable.close()


@contextmanager
def serving(model: Any, base: Path, **config: str) -> Iterator[OpenVinoServable]:
    save(model, base)
    with loaded(base, **config) as servable:
        yield servable


def _input(name: str, element_type: str, shape: Any) -> Any:
    sizes = openvino().PartialShape(list(shape)) if isinstance(shape, tuple) else shape
    node = ops.parameter(sizes, getattr(openvino().Type, element_type), name=name)
    node.output(0).get_tensor().set_names({name})
    return node


def _model(inputs: list[Any], sinks: Sequence[Any] = (), **outputs: Any) -> Any:
    for name, node in outputs.items():
        node.output(0).get_tensor().set_names({name})
    return openvino().Model([ops.result(node) for node in outputs.values()], list(sinks), inputs, "model")
