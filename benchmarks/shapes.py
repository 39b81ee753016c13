"""What ``shape: auto`` costs: open dimensions compiled once, against a model compiled anew for each new shape.

The latter is what OpenVINO Model Server does: a request of another shape waits until the model has been reshaped and
compiled for it, and then runs. Two ways of leaving dimensions open are measured: all of them; and Decant's, which keeps
the size of those that no other size fits, such as channels. Each contender answers the same requests in turns with the
others, in one process:

- steady: one shape again and again, after the first. What is compiled for one shape should be quickest here.
- changing: the shapes one after the other, round and round; the first round apart, as only then is a shape new.

Models: the ResNet-50 of `make_resnet50`, the bundled digits classifier, and the OCR models of
``requirements/models.txt``, if they have been installed.

Run as ``python -m benchmarks.shapes``. ``docs/performance.md`` has the results.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.machine import machine, noting_others
from benchmarks.make_resnet50 import write_resnet50
from benchmarks.report import say, table
from runtime.compiled import DEFAULTS
from runtime.openvino_core import DEVICE, core, openvino
from runtime.options import ANY, AUTO, ModelOptions
from runtime.ports import NO_NAMES
from runtime.preparing import prepare

ROOT = Path(__file__).parents[1]
OCR = ROOT / ".tools" / "models" / "tinyocr" / "assets"

Shape = tuple[int, ...]


class Case(NamedTuple):
    name: str
    path: Path
    shapes: Sequence[Shape]
    """The first is the steady one."""


class Result(NamedTuple):
    case: str
    contender: str
    load: float
    """Milliseconds until it can be asked, as all that follow."""
    steady: float
    """The least that a request took."""
    typical: float
    """The median."""
    new: float
    """Median of the requests that are the first of their shape."""
    changing: float
    """Median of those of a shape that is not the last one's, but was there before."""


def cases(directory: Path) -> Iterator[Case]:
    batches = [(size, 8, 8) for size in (1, 2, 3, 5, 8)]
    yield Case("digits", ROOT / "examples" / "digits" / "1" / "model.xml", batches)
    images = [(1, 3, 224, 224), (1, 3, 192, 256), (2, 3, 224, 224), (1, 3, 160, 160), (1, 3, 256, 192)]
    yield Case("ResNet-50", write_resnet50(directory / "resnet50") / "model.xml", images)
    if OCR.exists():
        pages = [(1, 3, 320, 320), (1, 3, 320, 480), (1, 3, 480, 320), (1, 3, 256, 640), (1, 3, 416, 416)]
        yield Case("OCR detector", OCR / "PP-OCRv6_det_tiny.onnx", pages)
        lines = [(1, 3, 48, width) for width in (320, 160, 240, 480, 640)]
        yield Case("OCR recogniser", OCR / "PP-OCRv6_rec_tiny.onnx", lines)


class Open:
    """Compiled once, with dimensions left open."""

    def __init__(self, model: Any) -> None:
        self._request = core().compile_model(model, DEVICE, dict(DEFAULTS)).create_infer_request()

    def __call__(self, x: Any) -> None:
        _run(self._request, x)


class Anew:
    """Compiled for one shape, and again when another comes."""

    def __init__(self, path: Path, shape: Sequence[int]) -> None:
        self._path = path
        self._shape: Sequence[int] = ()
        self._compile(shape)

    def __call__(self, x: Any) -> None:
        if x.shape != self._shape:
            self._compile(x.shape)
        _run(self._request, x)

    def _compile(self, shape: Sequence[int]) -> None:
        model = core().compile_model(_reshaped(self._path, shape), DEVICE, dict(DEFAULTS))
        self._request = model.create_infer_request()
        self._shape = shape


def measure(case: Case, runs: int) -> list[Result]:
    first = case.shapes[0]
    makers: dict[str, Callable[[], Open | Anew]] = {
        "anew for each": lambda: Anew(case.path, first),
        "all open": lambda: Open(_reshaped(case.path, [-1] * len(first))),
        "open, as Decant": lambda: Open(prepare(case.path, ModelOptions(shape=((ANY, AUTO),)), NO_NAMES)),
    }
    inputs = [np.random.default_rng(i).random(shape, np.float32) for i, shape in enumerate(case.shapes)]
    loads, contenders = {}, {}
    for name, make in makers.items():
        loads[name], contenders[name] = _timed(make)
    steady: dict[str, list[float]] = {name: [] for name in makers}
    new: dict[str, list[float]] = {name: [] for name in makers}
    changing: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(runs):
        for name, ask in contenders.items():
            steady[name].append(_timed(partial(ask, inputs[0]))[0])
    for turn in range(4):
        for x in (*inputs[1:], inputs[0]):
            for name, ask in contenders.items():
                took = _timed(partial(ask, x))[0]
                (changing if turn or x is inputs[0] else new)[name].append(took)
    return [
        Result(
            case.name,
            name,
            loads[name],
            min(steady[name][1:]),
            statistics.median(steady[name][1:]),
            statistics.median(new[name]),
            statistics.median(changing[name]),
        )
        for name in makers
    ]


def _reshaped(path: Path, shape: Sequence[int]) -> Any:
    model = core().read_model(path)
    model.reshape({0: openvino().PartialShape(list(shape))}, {})
    return model


def _run(request: Any, x: Any) -> None:
    request.set_input_tensor(0, openvino().Tensor(x, shared_memory=True))
    request.start_async({}, None)
    request.wait()


def _timed(do: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    done = do()
    return (time.perf_counter() - began) * 1000, done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60)
    options = parser.parse_args()
    facts = machine()
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="decant-shapes-") as directory, noting_others(facts):
        for case in cases(Path(directory)):
            say(f"{case.name}...")
            results += measure(case, options.runs)
    print("\n".join(f"{name}: {fact}" for name, fact in facts.items()), end="\n\n")
    head = (" model", " compiled", "load", "steady, least", "steady", "new shape", "changing shape")
    print("Milliseconds:\n\n" + table(head, results))


if __name__ == "__main__":
    main()
