"""Seconds from the start of a process to its first right answer: Decant, a naive handler, bare scripts.

Every measurement is a new process, with an empty cache directory or with one that an earlier start has left. The
contenders take turns, so that a change of the machine's mood meets all of them alike, and one warm-up run of each is
thrown away, so that Python's own files are in the page cache. Every answer is checked.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.bare_blob import write_blob
from benchmarks.children import HERE, QUIET, save_image
from benchmarks.report import Findings, Verdict, say, table
from benchmarks.tasks import BenchmarkFailed, Task
from tests.servers.processes import clean_environment, free_port
from tests.servers.seaweedfs import SeaweedFS

BUCKET = "models"

TIME_LIMIT = 60.0
"""Seconds after which a child is killed and the benchmark fails."""

RETRY_AFTER = 0.002
"""Seconds between attempts while nothing answers: little beside the quickest start, and little work."""

WRITTEN_AFTER = 2.0
"""Seconds without a change after which a server is taken to have written to its cache what it wants to."""

PRIMING_LIMIT = 20.0

DISK, S3, CACHE = "disk", "S3", "S3, second start"
ONE_PIECE = "S3, with an MD5"
IN_ONE_PIECE = "in-one-piece"
"""Where in the bucket the models are once more, uploaded in one piece each file."""


class Place(NamedTuple):
    """Where a child works."""

    url: str
    """Of the model's base directory."""
    port: int
    scratch: Path
    cache: Path
    s3: SeaweedFS


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
    """Where the model is: on the ``disk``, in ``S3``, or in the cache that an earlier start from S3 has left."""
    launch: Callable[[Task, Place], Launch]


def bare(task: Task, place: Place) -> Launch:
    return Launch([sys.executable, str(HERE / "bare.py"), str(task.xml), save_image(task, place.scratch)])


def bare_blob(task: Task, place: Place) -> Launch:
    # Of the first, thrown away run.
    blob = place.cache / f"{task.model}.blob"
    if not blob.exists():
        place.cache.mkdir(exist_ok=True)
        write_blob(task.xml, blob)
    weights, image = str(task.xml.with_suffix(".bin")), save_image(task, place.scratch)
    return Launch([sys.executable, str(HERE / "bare_blob.py"), str(blob), weights, image])


def bare_s3(task: Task, place: Place) -> Launch:
    files = []
    for file in (task.xml, task.xml.with_suffix(".bin")):
        where = {"Bucket": BUCKET, "Key": f"{task.model}/1/{file.name}"}
        url = place.s3.client().generate_presigned_url("get_object", Params=where, ExpiresIn=600)
        files += [url, str(file.stat().st_size)]
    return Launch([sys.executable, str(HERE / "bare_s3.py"), *files, save_image(task, place.scratch)])


def naive(task: Task, place: Place) -> Launch:
    env = {"MODEL_URI": f"{place.url}/1", "PORT": str(place.port)}
    return Launch([sys.executable, str(HERE / "naive_handler.py")], env, "/predict")


def decant(task: Task, place: Place, grpc_port: int = 0) -> Launch:
    flags = {
        "--model_name": task.model,
        "--model_path": place.url,
        "--port": grpc_port,
        "--rest_port": place.port,
        "--cache_dir": place.cache,
    }
    command = Path(sys.executable).with_name("decant")
    argv = [str(command), "serve", *(str(part) for flag in flags.items() for part in flag)]
    return Launch(argv, path=f"/v1/models/{task.model}:predict")


def decant_with_grpc(task: Task, place: Place) -> Launch:
    return decant(task, place, free_port())


BARE, BLOB = "bare script", "bare script, compiled blob"
NAIVE = "naive handler"
DECANT, WITH_GRPC = "Decant", "Decant + gRPC"
CONTENDERS = (
    Contender(BARE, DISK, bare),
    Contender(BLOB, DISK, bare_blob),
    Contender(NAIVE, DISK, naive),
    Contender(DECANT, DISK, decant),
    Contender(WITH_GRPC, DISK, decant_with_grpc),
    Contender(BARE, S3, bare_s3),
    Contender(NAIVE, S3, naive),
    Contender(DECANT, S3, decant),
    Contender(WITH_GRPC, S3, decant_with_grpc),
    Contender(DECANT, ONE_PIECE, decant),
    Contender(DECANT, CACHE, decant),
    Contender(WITH_GRPC, CACHE, decant_with_grpc),
)
# A second start downloads nothing, so its floor is what compiles from the disk.
FLOORS = {DISK: (BARE, DISK), S3: (BARE, S3), ONE_PIECE: (BARE, S3), CACHE: (BARE, DISK)}


@dataclass(frozen=True, slots=True)
class Result:
    model: str
    contender: str
    source: str
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def findings(tasks: Sequence[Task], s3: SeaweedFS, directory: Path, runs: int, out: Path) -> Findings:
    results = run(tasks, s3, directory, runs)
    found = Findings(
        "Cold start: seconds from starting the process to its first right answer",
        [_table(results)],
        list(_verdicts(results)),
        figures={f"{r.model}, {r.contender}, {r.source}": r.seconds for r in results},
    )
    for task in tasks:
        _draw_waterfall(task, s3, directory, out, found)
    return found


def run(tasks: Sequence[Task], s3: SeaweedFS, directory: Path, runs: int) -> list[Result]:
    """Measure every contender with every task, by turns; the first round is the warm-up."""
    turns = [(task, contender) for task in tasks for contender in CONTENDERS]
    results = [Result(task.model, contender.name, contender.source) for task, contender in turns]
    kept = [directory / f"kept-{number}" for number in range(len(turns))]
    for (task, contender), cache in zip(turns, kept, strict=True):
        if contender.source == CACHE:
            _prime(contender, task, s3, cache)
    for number in range(runs + 1):
        for (task, contender), result, cache in zip(turns, results, kept, strict=True):
            seconds = measure(
                contender, task, s3, cache if contender.source == CACHE or contender.name == BLOB else None
            )
            label = f"run {number} of {runs}" if number else "warm-up"
            say(f"{label}: {task.model}, {contender.name}, {contender.source}: {seconds:.3f} s")
            if number:
                result.seconds.append(seconds)
    return results


def measure(
    contender: Contender,
    task: Task,
    s3: SeaweedFS,
    cache: Path | None = None,
    afterwards: Callable[[subprocess.Popen[bytes], int], None] = lambda process, port: None,
) -> float:
    """Start a contender, wait for its first answer, and return the seconds in between; then it is killed.

    Args:
        cache: the directory to use for a cache; by default one that is new, and removed in the end.
        afterwards: what to do before it is killed, given its process and port.
    """
    with TemporaryDirectory(prefix="cold-start-") as scratch:
        place = Place(_url(task, contender.source), free_port(), Path(scratch), cache or Path(scratch, "cache"), s3)
        launch = contender.launch(task, place)
        body = task.request()
        env = {**clean_environment({**s3.admin.env(), **QUIET}), **launch.env, "HOME": scratch, "TMPDIR": scratch}
        log = Path(scratch) / "log"
        started = time.perf_counter()
        with _child(launch.argv, env, log) as process:
            answer = _printed(process) if launch.path is None else _served(process, place.port, launch.path, body)
            seconds = time.perf_counter() - started
            who = f"{contender.name} ({contender.source}, {task.model})"
            if answer is None:
                raise BenchmarkFailed(f"{who} ended without an answer:\n{log.read_text(errors='replace')[-2000:]}")
            task.check(who, answer)
            afterwards(process, place.port)
    return seconds


def upload(task: Task, s3: SeaweedFS, prefix: str = "") -> None:
    """Upload a model as AWS's tools do, large files in parts, whose ETag is no MD5; and once more with MD5s.

    Decant compares what it has downloaded with an MD5, if the store has one, at half a gigabyte a second.
    """
    s3.put_tree(BUCKET, f"{IN_ONE_PIECE}/{task.model}", task.disk)
    for file in (task.xml, task.xml.with_suffix(".bin")):
        s3.client().upload_file(str(file), BUCKET, f"{prefix}{task.model}/1/{file.name}")


def _url(task: Task, source: str) -> str:
    if source == DISK:
        return str(task.disk)
    return f"s3://{BUCKET}/{f'{IN_ONE_PIECE}/' if source == ONE_PIECE else ''}{task.model}"


def _prime(contender: Contender, task: Task, s3: SeaweedFS, cache: Path) -> None:
    """Start and stop once, with time to write to the cache whatever it writes there."""

    def stop(process: subprocess.Popen[bytes], port: int) -> None:
        deadline = time.monotonic() + PRIMING_LIMIT
        before, now = None, _contents(cache)
        while before != now and time.monotonic() < deadline:
            time.sleep(WRITTEN_AFTER)
            before, now = now, _contents(cache)
        process.terminate()
        process.wait(PRIMING_LIMIT)

    measure(contender, task, s3, cache, stop)


def _contents(directory: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_size) for path in directory.rglob("*"))


def _draw_waterfall(task: Task, s3: SeaweedFS, directory: Path, out: Path, found: Findings) -> None:
    """Save the phases of one start from S3 as Decant itself draws them."""

    def save(process: subprocess.Popen[bytes], port: int) -> None:
        for path, name in (
            ("/v1/coldstart.svg", f"cold-start-{task.model}.svg"),
            ("/v1/coldstart", f"cold-start-{task.model}.json"),
        ):
            status, body = _request(port, "GET", path)
            if status == http.HTTPStatus.OK:
                (out / name).write_bytes(body)
            else:
                found.notes.append(f"no {name}: {path} answered {status}")

    measure(Contender(DECANT, S3, decant), task, s3, afterwards=save)


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
            status, answer = _request(port, "POST", path, body)
            if status == http.HTTPStatus.OK:
                return answer
            if status not in (http.HTTPStatus.NOT_FOUND, http.HTTPStatus.SERVICE_UNAVAILABLE):
                raise BenchmarkFailed(f"{path} answered {status}: {answer[:500]!r}")
        time.sleep(RETRY_AFTER)
    return None


def _request(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIME_LIMIT)
    with contextlib.closing(connection):
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()


def _table(results: Sequence[Result]) -> str:
    """Ratios are of medians; "minima" is the ratio to the floor once more, of the least of each."""
    head = (" model", " server", " model from", "median s", "min", "max", "/ floor", "minima", "/ blob", "/ naive")
    return table(head, (_row(result, results) for result in results))


def _row(result: Result, results: Sequence[Result]) -> list[str | None]:
    ratios = (
        ratio(result, results, FLOORS[result.source]),
        ratio(result, results, FLOORS[result.source], min),
        ratio(result, results, (BLOB, DISK)),
        ratio(result, results, (NAIVE, DISK if result.source == DISK else S3)),
    )
    seconds = (result.median, min(result.seconds), max(result.seconds))
    cells = [result.model, result.contender, result.source, *(f"{value:.3f}" for value in seconds)]
    return [*cells, *("" if value is None else f"{value:.2f}" for value in ratios)]


def ratio(
    result: Result,
    results: Sequence[Result],
    of: tuple[str, str],
    typical: Callable[[list[float]], float] = statistics.median,
) -> float | None:
    """Return how many times longer this takes than another contender with the same model, if it is another."""
    other = next(r for r in results if (r.model, r.contender, r.source) == (result.model, *of))
    return None if other is result else typical(result.seconds) / typical(other.seconds)


def _verdicts(results: Sequence[Result]) -> Iterator[Verdict]:
    targets = {
        ("resnet50", S3): ("ResNet-50 from S3, empty cache", 1.3),
        ("digits", DISK): ("tiny model on disk", 1.5),
        ("resnet50", CACHE): ("second start, ResNet-50", 1.15),
        ("digits", CACHE): ("second start, tiny model", 1.15),
    }
    for (model, source), (what, target) in targets.items():
        for result in results:
            if (result.model, result.source) == (model, source) and result.contender in (DECANT, WITH_GRPC):
                figure = ratio(result, results, FLOORS[source])
                assert figure is not None
                floor = "floor (bare script, S3)" if source == S3 else "floor (bare script, disk)"
                yield Verdict(f"{what}: {result.contender}", figure, f"x {floor}", target)
