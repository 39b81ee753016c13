"""When request batching pays on a CPU, and when it costs.

Callers in a closed loop, each sending its next request when it has its answer, against one model: through the servable
in this process, and over REST and gRPC to a server that is a child. Settings take turns within each round, and every
ratio is to "off" in the same round, so that what else the machine does weighs on all alike; what is told is the median
over the rounds. Callers share the machine's cores with what they call.

Three models: the bundled digits, which is over in microseconds; a perceptron of four layers of 2048, whose 64 MiB of
weights are read for each inference, whatever the batch; a ResNet-50, which has as much to compute for each image.

Run as ``python -m benchmarks.batching``. ``docs/batching.md`` has the results.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import openvino as ov
import psutil
from openvino import opset13 as ops

from benchmarks.machine import machine, noting_others
from benchmarks.make_resnet50 import IMAGE_SHAPE, write_resnet50
from model_cache.cache import Loader
from model_cache.disk import DiskCache
from model_cache.local import LocalStorage
from model_cache.repository import ModelRepository, ModelVersion
from runtime.batching import BatchingLoader, BatchingParameters
from runtime.codecs import schema, tensor_proto
from runtime.engine import OpenVinoLoader
from runtime.servable import Servable
from runtime.signature import DEFAULT_SIGNATURE
from tests.servers.decant import Decant, decant_serve

ROOT = Path(__file__).parent.parent
WIDTH = 2048
LAYERS = 4
_LARGE = 1 << 16
"""Bytes of an example from which on what REST costs hides all else."""
POWERS = (1, 2, 4, 8, 16, 32, 64)

SETTINGS: dict[str, BatchingParameters | None] = {
    "off": None,
    "on": BatchingParameters(max_batch_size=64),
    "sizes 1, 2, 4, ...": BatchingParameters(max_batch_size=64, allowed_batch_sizes=POWERS),
    "1 ms": BatchingParameters(max_batch_size=8, batch_timeout_micros=1000, max_enqueued_batches=100),
    "5 ms": BatchingParameters(max_batch_size=8, batch_timeout_micros=5000, max_enqueued_batches=100),
}
FLAGS: dict[str, tuple[str, ...]] = {
    "off": (),
    "on": ("--enable_batching", "--max_batch_size", "64"),
    "1 ms": (
        *("--enable_batching", "--max_batch_size", "8", "--batch_timeout_micros", "1000"),
        *("--max_enqueued_batches", "100"),
    ),
}

OVER_THE_WIRE = (1, 8, 64)
"""Callers with which servers are measured, too."""

Call = Callable[[], object]


class Load(NamedTuple):
    """What some callers got in a while."""

    rate: float
    """Answers in a second."""
    p50: float
    p99: float
    work: float
    """Seconds of processor time for an answer, which tells the same on a machine that is busy with something else."""


class Contender(NamedTuple):
    make_call: Callable[[], Call]
    """For a caller of its own."""
    work: Callable[[], float]
    """Seconds of processor time that have gone into answers so far."""


@dataclass(frozen=True, slots=True)
class Task:
    """A model and one example for it."""

    name: str
    base: Path
    input: str
    example: np.ndarray[Any, np.dtype[np.float32]]
    seconds: float
    """That a measurement takes: long enough for some hundred answers."""


@dataclass(frozen=True, slots=True)
class Row:
    what: str
    callers: int
    loads: dict[str, list[Load]]
    """By setting, of each round."""


def tasks(scratch: Path) -> list[Task]:
    rng = np.random.default_rng(4)

    def example(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return rng.random((1, *shape), np.float32)

    write_perceptron(scratch / "perceptron")
    write_resnet50(scratch / "resnet50")
    return [
        Task("digits", ROOT / "examples" / "digits", "image", example(8, 8), 0.6),
        Task("perceptron", scratch / "perceptron", "x", example(WIDTH), 0.8),
        Task("resnet50", scratch / "resnet50", "image", example(*IMAGE_SHAPE), 4),
    ]


def write_perceptron(base: Path) -> None:
    rng = np.random.default_rng(2)
    x = node = ops.parameter([-1, WIDTH], ov.Type.f32, name="x")
    x.output(0).get_tensor().set_names({"x"})
    for _ in range(LAYERS):
        weights = rng.standard_normal((WIDTH, WIDTH), dtype=np.float32) * np.float32((2 / WIDTH) ** 0.5)
        node = ops.relu(ops.matmul(node, ops.constant(weights), False, False))
    node.output(0).get_tensor().set_names({"y"})
    (base / "1").mkdir(parents=True)
    ov.save_model(ov.Model([ops.result(node)], [x], "perceptron"), base / "1" / "model.xml", compress_to_fp16=False)


def press(calls: Sequence[Call], work: Callable[[], float], seconds: float) -> Load:
    """Make each call again and again, in a thread of its own."""
    latencies: list[list[float]] = [[] for _ in calls]
    barrier = threading.Barrier(len(calls) + 1)
    over = threading.Event()

    def go_on(call: Call, mine: list[float]) -> None:
        barrier.wait()
        while not over.is_set():
            began = time.perf_counter()
            call()
            mine.append(time.perf_counter() - began)

    threads = [threading.Thread(target=go_on, args=pair) for pair in zip(calls, latencies, strict=True)]
    for thread in threads:
        thread.start()
    barrier.wait()
    began, worked = time.perf_counter(), work()
    over.wait(seconds)
    over.set()
    for thread in threads:
        thread.join()
    elapsed, worked = time.perf_counter() - began, work() - worked
    every = list(itertools.chain.from_iterable(latencies))
    p50, p99 = np.percentile(every, [50, 99])
    return Load(len(every) / elapsed, float(p50), float(p99), worked / len(every))


def compare(
    what: str, task: Task, callers: Sequence[int], rounds: int, contenders: Mapping[str, Contender]
) -> list[Row]:
    """Measure all settings in turn, again and again."""
    rows = []
    for number in callers:
        loads: dict[str, list[Load]] = {name: [] for name in contenders}
        calls = {name: [contender.make_call() for _ in range(number)] for name, contender in contenders.items()}
        for name, contender in contenders.items():
            press(calls[name], contender.work, task.seconds / 4)
        for _ in range(rounds):
            for name, contender in contenders.items():
                loads[name].append(press(calls[name], contender.work, task.seconds))
        rows.append(Row(what, number, loads))
        _say(report([rows[-1]]))
    return rows


def in_process(task: Task, callers: Sequence[int], rounds: int) -> list[Row]:
    files = DiskCache(Path("/nowhere"), 0)
    version = ModelRepository(task.name, LocalStorage(task.base)).find(1)
    with ExitStack() as stack:
        contenders = {}
        for name, parameters in SETTINGS.items():
            loader: Loader[ModelVersion, Servable] = OpenVinoLoader(files)
            if parameters:
                loader = BatchingLoader(loader, files, parameters=parameters, reads_per_model=False)
            servable = loader.load(version)
            stack.callback(servable.close)
            for rows in POWERS if parameters else (1,):
                servable.predict(DEFAULT_SIGNATURE, {task.input: np.repeat(task.example, min(rows, 8), axis=0)})
            contenders[name] = Contender(partial(_predict, servable, task), time.process_time)
        return compare(f"{task.name}, in process", task, callers, rounds, contenders)


def over_rest(task: Task, callers: Sequence[int], rounds: int, scratch: Path) -> list[Row]:
    body = b'{"instances":[%s]}' % str(task.example[0].tolist()).encode()
    with _servers(task, scratch) as servers:
        contenders = {
            name: Contender(partial(_post, server.rest_port, task.name, body), partial(_work_of, server))
            for name, server in servers.items()
        }
        return compare(f"{task.name}, REST", task, callers, rounds, contenders)


def over_grpc(task: Task, callers: Sequence[int], rounds: int, scratch: Path) -> list[Row]:
    request = schema.PredictRequest()
    request.model_spec.name = task.name
    tensor_proto.encode(task.example, request.inputs[task.input], 1)
    body = request.SerializeToString()
    with _servers(task, scratch) as servers, ExitStack() as stack:
        contenders = {}
        for name, server in servers.items():
            channel = stack.enter_context(grpc.insecure_channel(server.grpc_address))
            contenders[name] = Contender(partial(_unary, channel, body), partial(_work_of, server))
        return compare(f"{task.name}, gRPC", task, callers, rounds, contenders)


@contextmanager
def _servers(task: Task, scratch: Path) -> Iterator[dict[str, Decant]]:
    """One server for each setting, all at once, of which one is asked at a time."""
    with ExitStack() as stack:
        model = ("--model_name", task.name, "--model_path", str(task.base))
        yield {
            name: stack.enter_context(decant_serve(scratch / f"{task.name}-{number}", *model, *flags))
            for number, (name, flags) in enumerate(FLAGS.items())
        }


def _work_of(server: Decant) -> float:
    times = psutil.Process(server.process.pid).cpu_times()
    return times.user + times.system


def _predict(servable: Servable, task: Task) -> Call:
    inputs = {task.input: task.example.copy()}
    return lambda: servable.predict(DEFAULT_SIGNATURE, inputs)


def _post(port: int, model: str, body: bytes) -> Call:
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def call() -> None:
        connection.request("POST", f"/v1/models/{model}:predict", body)
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {answer[:200]!r}")

    return call


def _unary(channel: grpc.Channel, body: bytes) -> Call:
    # Bytes in, bytes out: what the callers do is not what is measured.
    method: Any = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    return lambda: method(body)


def report(rows: Sequence[Row]) -> str:
    lines = ["| | callers | batching | answers/s | p50 | p99 | work | answers/s, of off | p50 | p99 | work |"]
    lines.append("| --- | ---: | --- " + "| ---: " * 8 + "|")
    for row in rows:
        for name, loads in row.loads.items():
            rate, p50, p99, work = (statistics.median(column) for column in zip(*loads, strict=True))
            ratios = [
                statistics.median(ours / off for ours, off in zip(column, column_off, strict=True))
                for column, column_off in zip(
                    zip(*loads, strict=True), zip(*row.loads["off"], strict=True), strict=True
                )
            ]
            cells = [row.what, str(row.callers), name, f"{rate:.0f}", *(f"{t * 1e3:.2f} ms" for t in (p50, p99, work))]
            lines.append("| " + " | ".join([*cells, *(f"{ratio:.2f}" for ratio in ratios)]) + " |")
    return "\n".join(lines)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--models", nargs="+", default=["digits", "perceptron", "resnet50"])
    return parser.parse_args()


def main() -> None:
    options = _arguments()
    facts = machine()
    rows: list[Row] = []
    with noting_others(facts), tempfile.TemporaryDirectory(prefix="batching-") as directory:
        scratch = Path(directory)
        for task in tasks(scratch):
            if task.name in options.models:
                rows += in_process(task, options.callers, options.rounds)
                callers = [number for number in OVER_THE_WIRE if number in options.callers]
                rows += over_grpc(task, callers, options.rounds, scratch)
                if task.example.nbytes < _LARGE:
                    rows += over_rest(task, callers, options.rounds, scratch)
    print("\n".join(f"{fact}: {value}" for fact, value in facts.items()), end="\n\n")
    print(report(rows))


if __name__ == "__main__":
    main()
