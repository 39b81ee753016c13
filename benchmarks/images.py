"""What it takes to make a model's input of an encoded image: Decant's way, Pillow and numpy, and OpenCV's.

One process, one thread, one picture in three sizes and several formats. Both ways end with an array of 224x224, of
bytes and of float32, and are compared before they are measured: bytes are the same, floats differ by what OpenCV's
widest registers round. The two take turns, and the quickest of each counts, as others use the machine too. Then, in
processes of their own with compiled modules ready, what the two cost before the first image: milliseconds of their
imports beside numpy's, and bytes on disk.

Run as ``python -m benchmarks.images``. ``docs/performance.md`` has the results.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import timeit
from collections.abc import Callable, Iterator
from importlib.metadata import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import machine, noting_others
from runtime.images import decode_images
from runtime.signature import Dtype, TensorSpec

SIZES = ((224, 224), (480, 640), (3000, 4000))
FORMATS = (".jpg", ".png", ".webp", ".bmp")
TARGET = (224, 224)
_IMPORTS = {
    "pillow": "import PIL.Image, PIL.JpegImagePlugin",
    "opencv-python-headless": "import cv2",
}
_TIMED = """
import time, numpy
began = time.perf_counter()
{}
print(time.perf_counter() - began)
"""
_TOLERANCE = 0.02
Call = Callable[[], NDArray[Any]]


class Result(NamedTuple):
    size: tuple[int, int]
    form: str
    dtype: str
    ours: float
    opencv: float


def photo(height: int, width: int) -> NDArray[np.uint8]:
    """Return something that compresses about as photos do."""
    small = np.random.default_rng(4).integers(0, 255, (height // 16, width // 16, 3)).astype(np.uint8)
    image = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))
    noise = np.random.default_rng(5).integers(0, 8, image.shape).astype(np.uint8)
    return np.asarray(cv2.add(image, noise)).astype(np.uint8)


def cases() -> Iterator[tuple[tuple[int, int], str, Dtype, Call, Call]]:
    """Yield (size, form, dtype, Decant's call, OpenCV's call)."""
    for size in SIZES:
        image = photo(*size)
        for form in FORMATS:
            is_written, content = cv2.imencode(form, image)
            assert is_written
            for dtype in (np.dtype(np.uint8), np.dtype(np.float32)):
                ours, theirs = _ours(content.tobytes(), dtype), _opencv(content, dtype)
                np.testing.assert_allclose(
                    ours().astype(float), theirs().astype(float), rtol=0, atol=_TOLERANCE if dtype.kind == "f" else 0
                )
                yield size, form, dtype, ours, theirs


def _ours(content: bytes, dtype: Dtype) -> Call:
    specs = {"x": TensorSpec("x", dtype, (1, *TARGET, 3), "NHWC")}
    inputs = {"x": np.array([content], object)}
    return lambda: decode_images(specs, inputs)["x"]


def _opencv(content: NDArray[np.uint8], dtype: Dtype) -> Call:
    def call() -> NDArray[Any]:
        image: NDArray[Any] = np.asarray(cv2.imdecode(content, cv2.IMREAD_UNCHANGED)).astype(dtype, copy=False)
        return np.asarray(cv2.resize(image, TARGET[::-1]))[None]

    return call


def measure(calls: tuple[Call, Call], runs: int) -> tuple[float, float]:
    """Return the milliseconds of each: the least of several runs, in turns."""
    timers = [timeit.Timer(call) for call in calls]
    least = [np.inf, np.inf]
    for _ in range(runs):
        for i, timer in enumerate(timers):
            least[i] = min(least[i], timer.timeit(1) * 1000)
    return least[0], least[1]


def imported(statement: str, runs: int) -> float:
    """Return milliseconds that an import takes in a process that has numpy, at best."""
    with TemporaryDirectory(prefix="images-") as compiled:
        environ = {**os.environ, "PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}
        command = [sys.executable, "-c", _TIMED.format(statement)]
        outputs = [subprocess.run(command, env=environ, check=True, stdout=subprocess.PIPE) for _ in range(runs + 1)]
    # The first compiles.
    return min(float(output.stdout) for output in outputs[1:]) * 1000


def size_of(distribution: str) -> int:
    """Return the bytes of a package's files."""
    paths = [Path(str(file.locate())) for file in files(distribution) or ()]
    return sum(path.stat().st_size for path in paths if path.is_file() and path.suffix != ".pyc")


def table(results: list[Result]) -> str:
    lines = ["| image | to | ms, Decant | ms, OpenCV |", "| --- | --- | ---: | ---: |"]
    lines += [
        f"| {height}x{width} {form[1:]} | {dtype} | {ours:.3g} | {opencv:.3g} |"
        for (height, width), form, dtype, ours, opencv in results
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    facts, results = machine(), []
    with noting_others(facts):
        for size, form, dtype, ours, opencv in cases():
            results.append(Result(size, form, dtype.name, *measure((ours, opencv), options.runs)))
        costs = [(name, imported(statement, options.runs), size_of(name)) for name, statement in _IMPORTS.items()]
    print("\n".join(f"{name}: {fact}" for name, fact in facts.items()), end="\n\n")
    print(table(results), end="\n\n")
    for name, milliseconds, space in costs:
        print(f"{name}: import {milliseconds:.1f} ms beside numpy, {space / 2**20:.1f} MiB on disk")


if __name__ == "__main__":
    main()
