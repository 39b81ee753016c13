"""Seconds from the start of a process to its first right answer: Decant, a naive handler, a bare script.

Every measurement is a new process with an empty cache directory. The contenders take turns, so that a change
of the machine's mood meets all of them alike, and one warm-up run of each is thrown away, so that Python's own
files are in the page cache. Nothing counts before it has been checked: the answer must be that of OpenVINO,
called directly, within a tolerance that the answer to another input does not meet.

Run as ``python -m benchmarks.cold_start``. ``docs/performance.md`` has the results.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov

from benchmarks.machine import machine, noting_others
from benchmarks.make_resnet50 import IMAGE_SHAPE, write_resnet50
from tests.servers.processes import clean_environment, free_port
from tests.servers.seaweedfs import SeaweedFS, seaweedfs

HERE = Path(__file__).parent
DIGITS = HERE.parent / "examples" / "digits"
BUCKET = "models"

TIME_LIMIT = 60.0
"""Seconds after which a child is killed and the benchmark fails."""

RETRY_AFTER = 0.002
"""Seconds between attempts while nothing answers: little beside the quickest start, and little work."""

TOLERANCE = 0.01
"""Of the range of the right answer. OpenVINO computes in bf16 by default where the CPU can, which moves the
answers of ResNet-50 by 0.2 %."""

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Task:
    """A model in storage, a request to it, and the right answer to that request."""

    model: str
    disk: Path
    """The base directory; version 1 is ``1/model.xml``."""
    image: Array
    """One example, with its batch dimension."""
    output: str
    answer: Array

    def request(self) -> bytes:
        # f32 printed as f64 would be twenty digits of noise per number.
        return json.dumps({"instances": np.round(self.image.astype(np.float64), 4).tolist()}).encode()

    def is_right(self, values: Any) -> bool:
        given = np.asarray(values, dtype=np.float32).reshape(self.answer.shape)
        return bool(np.abs(given - self.answer).max() <= TOLERANCE * np.ptp(self.answer))


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one child, and where it answers: at a path of its HTTP server, or on its standard output."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    source: str
    """Where the model is: ``disk`` or ``S3``."""
    launch: Callable[[Task, str, int, Path], Launch]
    """From the task, the URL of its base directory, the port to serve and a scratch directory."""


def bare(task: Task, base: str, port: int, scratch: Path) -> Launch:
    image = scratch / "image.npy"
    np.save(image, task.image)
    return Launch([sys.executable, str(HERE / "bare.py"), f"{base}/1/model.xml", str(image)])


def naive(task: Task, base: str, port: int, scratch: Path) -> Launch:
    env = {"MODEL_URI": f"{base}/1", "PORT": str(port)}
    return Launch([sys.executable, str(HERE / "naive_handler.py")], env, "/predict")


def decant(task: Task, base: str, port: int, scratch: Path, grpc_port: int = 0) -> Launch:
    flags = {
        "--model_name": task.model,
        "--model_path": base,
        "--port": grpc_port,
        "--rest_port": port,
        "--cache_dir": scratch / "cache",
    }
    command = Path(sys.executable).with_name("decant")
    argv = [str(command), "serve", *(str(part) for flag in flags.items() for part in flag)]
    return Launch(argv, path=f"/v1/models/{task.model}:predict")


def decant_with_grpc(task: Task, base: str, port: int, scratch: Path) -> Launch:
    return decant(task, base, port, scratch, free_port())


BARE = Contender("bare script", "disk", bare)
CONTENDERS = (
    BARE,
    Contender("naive handler", "disk", naive),
    Contender("Decant", "disk", decant),
    Contender("naive handler", "S3", naive),
    Contender("Decant", "S3", decant),
    Contender("Decant + gRPC", "S3", decant_with_grpc),
)


def digits(directory: Path) -> Task:
    image = np.array(json.loads((DIGITS / "seven.json").read_bytes())["instances"], dtype=np.float32)
    return _with_answer("digits", DIGITS, image, "probabilities")


def resnet50(directory: Path) -> Task:
    """Make the model, and an image of coarse patches: to random weights, plain noise all looks alike."""
    write_resnet50(directory)
    random = np.random.default_rng(1)
    patches = random.random((IMAGE_SHAPE[0], 7, 7)).repeat(32, axis=1).repeat(32, axis=2)
    image = np.round(patches + 0.1 * random.random(IMAGE_SHAPE), 4)[np.newaxis]
    return _with_answer("resnet50", directory, image.astype(np.float32), "logits")


TASKS: dict[str, Callable[[Path], Task]] = {"digits": digits, "resnet50": resnet50}


def _with_answer(model: str, base: Path, image: Array, output: str) -> Task:
    """Ask OpenVINO, and make sure that the check refuses the answer to the negative."""
    compiled = ov.Core().compile_model(base / "1" / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    task = Task(model, base, image, output, compiled(image)[output].copy())
    if not np.isfinite(task.answer).all() or task.is_right(compiled(image.max() - image)[output]):
        raise SystemExit(f"{model}: the reference answer does not depend on the input")
    return task


def measure(contender: Contender, task: Task, base: str, env: Mapping[str, str]) -> float:
    """Start a contender, wait for its first answer, kill it, and return the seconds in between."""
    with tempfile.TemporaryDirectory(prefix="cold-start-") as scratch:
        port = free_port()
        launch = contender.launch(task, base, port, Path(scratch))
        body = task.request()
        child_env = {**env, **launch.env, "HOME": scratch, "TMPDIR": scratch}
        log = Path(scratch) / "log"
        started = time.perf_counter()
        with _child(launch.argv, child_env, log) as process:
            answer = _printed(process) if launch.path is None else _served(process, port, launch.path, body)
            seconds = time.perf_counter() - started
        _check(contender, task, answer, log)
    return seconds


@contextlib.contextmanager
def _child(argv: Sequence[str], env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a child and kill it, with whatever it started, at the end or when it has taken too long."""
    with log.open("wb") as stderr:
        process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True)
    timer = threading.Timer(TIME_LIMIT, process.kill)
    timer.start()
    try:
        with process:
            try:
                yield process
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    finally:
        timer.cancel()


def _printed(process: subprocess.Popen[bytes]) -> bytes | None:
    assert process.stdout is not None
    return process.stdout.readline() or None


def _served(process: subprocess.Popen[bytes], port: int, path: str, body: bytes) -> bytes | None:
    """Post until the server answers 200; ``None`` if the child ends first."""
    while process.poll() is None:
        # Not being there yet looks like a refused or broken connection, or like TensorFlow Serving's 404 and 503.
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, answer = _post(port, path, body)
            if status == http.HTTPStatus.OK:
                return answer
            if status not in (http.HTTPStatus.NOT_FOUND, http.HTTPStatus.SERVICE_UNAVAILABLE):
                raise SystemExit(f"{path} answered {status}: {answer[:500]!r}")
        time.sleep(RETRY_AFTER)
    return None


def _post(port: int, path: str, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIME_LIMIT)
    with contextlib.closing(connection):
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()


def _check(contender: Contender, task: Task, answer: bytes | None, log: Path) -> None:
    who = f"{contender.name} ({contender.source}, {task.model})"
    if answer is None:
        raise SystemExit(f"{who} ended without an answer:\n{log.read_text(errors='replace')[-2000:]}")
    if not task.is_right(_values(json.loads(answer), task.output)):
        raise SystemExit(f"{who} gave a wrong answer: {answer[:500]!r}")


def _values(answer: Any, output: str) -> Any:
    """Find an output in the bare script's object, or in a row (Decant) or column (naive) response."""
    rows = answer.get("predictions")
    if rows is not None:
        return [row[output] if isinstance(row, dict) else row for row in rows]
    return answer.get("outputs", answer)[output]


@dataclass(frozen=True, slots=True)
class Result:
    model: str
    contender: str
    source: str
    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def run(tasks: Sequence[Task], runs: int, s3: SeaweedFS) -> list[Result]:
    """Measure every contender with every task, by turns; the first round is the warm-up."""
    # OpenVINO's telemetry takes CI as a refusal. The naive handler would otherwise start it.
    env = clean_environment({**s3.admin.env(), "CI": "true"})
    turns = [(task, contender) for task in tasks for contender in CONTENDERS]
    results = [Result(task.model, contender.name, contender.source, []) for task, contender in turns]
    for number in range(runs + 1):
        for (task, contender), result in zip(turns, results, strict=True):
            base = str(task.disk) if contender.source == "disk" else f"s3://{BUCKET}/{task.model}"
            seconds = measure(contender, task, base, env)
            label = f"run {number} of {runs}" if number else "warm-up"
            _say(f"{label}: {task.model}, {contender.name}, {contender.source}: {seconds:.3f} s")
            if number:
                result.seconds.append(seconds)
    return results


def table(results: Sequence[Result]) -> str:
    """A Markdown table; the ratios are of medians."""
    lines = [
        "| model | server | model from | median s | min | max | / bare | / naive |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    return "\n".join(lines + [_row(result, results) for result in results])


def _row(result: Result, results: Sequence[Result]) -> str:
    bare_ratio = _ratio(result, results, BARE.name, BARE.source)
    naive_ratio = _ratio(result, results, "naive handler", result.source)
    times = f"{result.median:.3f} | {min(result.seconds):.3f} | {max(result.seconds):.3f}"
    return f"| {result.model} | {result.contender} | {result.source} | {times} | {bare_ratio} | {naive_ratio} |"


def _ratio(result: Result, results: Sequence[Result], contender: str, source: str) -> str:
    wanted = (result.model, contender, source)
    other = next(other for other in results if (other.model, other.contender, other.source) == wanted)
    return "" if other is result else f"{result.median / other.median:.2f}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold_start", description=__doc__)
    parser.add_argument("--runs", type=int, default=7, help="measurements of each contender (default: 7)")
    parser.add_argument("--models", default=",".join(TASKS), help="which of %(default)s, with commas between")
    parser.add_argument("--json", type=Path, help="also write every measurement to this file")
    arguments = parser.parse_args()
    arguments.models = arguments.models.split(",")
    if unknown := set(arguments.models) - set(TASKS):
        parser.error(f"unknown models {sorted(unknown)}; want some of {sorted(TASKS)}")
    if arguments.runs < 1:
        parser.error("--runs must be at least 1")
    return arguments


def main() -> None:
    arguments = _arguments()
    # So that a terminated benchmark leaves no child and no temporary file behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    facts = machine()
    with noting_others(facts), tempfile.TemporaryDirectory(prefix="cold-start-") as directory:
        tasks = [TASKS[model](Path(directory) / model) for model in arguments.models]
        with seaweedfs(Path(directory), BUCKET) as s3:
            for task in tasks:
                s3.put_tree(BUCKET, task.model, task.disk)
            results = run(tasks, arguments.runs, s3)
    print("\n".join(f"{fact}: {value}" for fact, value in facts.items()))
    print(f"runs: {arguments.runs}\n\n{table(results)}")
    if arguments.json:
        measured = [dataclasses.asdict(result) for result in results]
        arguments.json.write_text(json.dumps({"machine": facts, "results": measured}, indent=2) + "\n")


if __name__ == "__main__":
    main()
