"""Memory, latency and throughput under the limits that platforms set, and what follows for sizes and costs.

Servers get requests over gRPC, in a control group with so much of a processor; functions get events from AWS's
emulator, in one with a function's memory and its share of a processor. ``benchmarks.sizing_doc`` puts the tables into
``docs/sizing.md``. Of a model of your own:

    python -m benchmarks.sizing my_model /path/to/my_model --shape image=1,3,224,224
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from benchmarks.cgroup import cgroup, why_not
from benchmarks.children import QUIET, family, own_seconds, wait_until_idle
from benchmarks.costs import MIB, Fit, Observed, fit, lambda_cpus
from benchmarks.load import Load, Press, missing_tools, press_grpc
from benchmarks.machine import count_as_ours, let_python_keep_what_it_compiles
from benchmarks.report import Findings, percentile, say
from benchmarks.sizing_subjects import SUBJECTS, Asked, Shape, Subject, ask, local
from benchmarks.sizing_tables import Function, Held, Limited, cost_tables, fit_table, measured_tables
from benchmarks.tasks import BenchmarkFailed
from tests.servers.decant import DECANT, Decant, decant_serve
from tests.servers.lambda_emulator import LambdaEmulator, lambda_emulator
from tests.servers.lambda_events import function_url
from tests.servers.processes import accepts_connections

TITLE = "Sizing: memory, and latency under limits"
ROOM = 4 << 30
"""Bytes of memory for servers whose processors are limited."""
EVENT = 6 * MIB
"""Bytes that Lambda takes."""
EACH = 0.5
"""Seconds for each caller at the least, so that all of them get an answer of a slow model."""
START_LIMIT = 60.0
INSUFFICIENT_STORAGE = http.HTTPStatus.INSUFFICIENT_STORAGE


class Plan(NamedTuple):
    """What is measured, and how long for."""

    callers: Sequence[int] = (1, 4, 16)
    cpus: Sequence[float] = (0.5, 1, 2)
    memories: Sequence[int] = (512, 1024, 1769, 3538)
    """MB of functions."""
    limited: Sequence[str] = ("digits", "magika", "text_recogniser", "resnet50")
    """The models whose processors are limited; of all others memory alone is measured."""
    threads: Sequence[tuple[float, int]] = ((1, 1), (1, 2), (2, 1), (2, 2))
    """Processors, and threads of an inference."""
    threaded: Sequence[str] = ("magika", "resnet50")
    seconds: float = 3


def findings(directory: Path, plan: Plan, names: Sequence[str] = tuple(SUBJECTS)) -> Findings:
    subjects = [SUBJECTS[name](directory) for name in names]
    return _findings(subjects, directory, plan)


def _findings(subjects: Sequence[Subject], directory: Path, plan: Plan) -> Findings:
    found = Findings(
        TITLE, notes=[f"{tool} is missing, so a client in Python took its place" for tool in missing_tools()]
    )
    asked: dict[str, Asked] = {}
    held: list[Held] = []
    for subject in subjects:
        asked[subject.name], rows = memory(subject, directory, plan)
        held += rows
    limited: list[Limited] = []
    functions: list[Function] = []
    if reason := why_not():
        found.notes.append(f"no limits: {reason}")
    else:
        for subject in subjects:
            limited += _all_limits(subject, asked[subject.name], directory, plan)
        for subject in subjects:
            if subject.name in plan.limited:
                functions += _all_functions(subject, asked[subject.name], plan)
    tables = measured_tables(held, limited, functions)
    with suppress(ValueError):
        tables |= fit_table(memory_fit(held))
    tables |= cost_tables(held, limited, functions)
    found.tables += tables.values()
    found.figures = {
        "tables": tables,
        "memory": [row._asdict() for row in held],
        "limited": [{**row._asdict(), "one": _load(row.one), "four": _load(row.four)} for row in limited],
        "lambda": [row._asdict() for row in functions],
    }
    return found


def memory_fit(held: Sequence[Held]) -> Fit:
    return fit([Observed(row.size, row.tensors, row.callers, row.peak) for row in held])


def memory(subject: Subject, directory: Path, plan: Plan) -> tuple[Asked, list[Held]]:
    """Measure the peak after more and more callers, of one server."""
    rows = []
    with _server(subject, directory / f"memory-{subject.name}") as server:
        server.wait_ready()
        _wait_for_grpc(server)
        asked = ask(subject, server)
        press = press_grpc(server.grpc_port, asked.message, asked.answer, directory)
        for callers in plan.callers:
            _press(subject, press, callers, plan.seconds)
            rows.append(Held(subject.name, subject.size, asked.tensors, callers, peak(server.process.pid)))
            say(f"{subject.name}, {callers} callers: {rows[-1].peak / MIB:.0f} MiB")
    return asked, rows


def peak(pid: int) -> int:
    """Return the most bytes that a process has had resident so far: proc(5), VmHWM."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def _all_limits(subject: Subject, asked: Asked, directory: Path, plan: Plan) -> Iterator[Limited]:
    if subject.name in plan.limited:
        for cpus in plan.cpus:
            yield under(subject, asked, directory, plan.seconds, cpus)
    if subject.name in plan.threaded:
        for cpus, threads in plan.threads:
            yield under(subject, asked, directory, plan.seconds, cpus, threads)


def under(
    subject: Subject, asked: Asked, directory: Path, seconds: float, cpus: float, threads: int | None = None
) -> Limited:
    """Measure a start, then one caller and four, with so much of a processor.

    Args:
        threads: of an inference; by default Decant decides.
    """
    scratch = directory / f"{subject.name}-{cpus:g}-{threads}"
    flags = () if threads is None else ("--plugin_config", json.dumps({"INFERENCE_NUM_THREADS": threads}))
    with cgroup(ROOM, cpus) as enter:
        began = time.perf_counter()
        with _server(subject, scratch, *flags, enter=enter) as server:
            _first_answer(server, subject, asked)
            start = time.perf_counter() - began
            _wait_for_grpc(server)
            press = press_grpc(server.grpc_port, asked.message, asked.answer, scratch)
            wait_until_idle(server.process.pid)
            one = _press(subject, press, 1, seconds)
            four = _press(subject, press, 4, seconds)
            count_as_ours(sum(map(own_seconds, family(server.process.pid))))
    figures = f"start {start:.2f} s, {one.p50 * 1e3:.1f} ms, {four.rate:.0f}/s"
    say(f"{subject.name}, {cpus:g} CPUs, threads {threads}: {figures}")
    return Limited(subject.name, cpus, threads, start, one, four)


@contextmanager
def _server(subject: Subject, scratch: Path, *flags: str, enter: Sequence[str] = ()) -> Iterator[Decant]:
    model = ("--model_name", subject.name, "--model_path", subject.base)
    with decant_serve(scratch, *model, *flags, env=QUIET, program=(*enter, *DECANT), wait=False) as server:
        yield server


def _first_answer(server: Decant, subject: Subject, asked: Asked) -> None:
    deadline = time.monotonic() + START_LIMIT
    while True:
        with suppress(OSError, http.client.HTTPException):
            reply = server.post(subject.path, asked.body)
            if reply.status == http.HTTPStatus.OK:
                return
            if reply.status not in (http.HTTPStatus.NOT_FOUND, http.HTTPStatus.SERVICE_UNAVAILABLE):
                raise BenchmarkFailed(f"{subject.name} answered {reply.status}: {str(reply.body)[:500]}")
        if server.process.exit_code is not None or time.monotonic() > deadline:
            raise BenchmarkFailed(f"{subject.name} did not start:\n{server.log()[-2000:]}")
        time.sleep(0.005)


def _wait_for_grpc(server: Decant) -> None:
    # REST answers first.
    server.process.wait_until(lambda: accepts_connections(server.grpc_port), START_LIMIT)


def _press(subject: Subject, press: Press, callers: int, seconds: float) -> Load:
    load = press(callers, max(seconds, callers * EACH))
    if load.errors or not load.rate:
        raise BenchmarkFailed(f"{subject.name}: {load.errors} errors, {load.rate:g} good answers a second")
    return load


def _all_functions(subject: Subject, asked: Asked, plan: Plan) -> Iterator[Function]:
    event = function_url("POST", subject.path, {}, {"content-type": "application/json"}, asked.body)
    if len(json.dumps(event)) > EVENT:
        say(f"{subject.name}: its request is more than Lambda takes")
        return
    for memory in plan.memories:
        yield function(subject, event, memory, plan.seconds)


def function(subject: Subject, event: Mapping[str, Any], memory: int, seconds: float) -> Function:
    """Measure a first event, which starts the function, and those that come after it for a while."""
    with TemporaryDirectory(prefix="sizing-") as scratch, cgroup(memory << 20, lambda_cpus(memory)) as enter:
        env = {
            **QUIET,
            "HOME": scratch,
            "TMPDIR": scratch,
            "DECANT_MODEL_NAME": subject.name,
            "DECANT_MODEL_PATH": subject.base,
            "DECANT_CACHE_DIR": str(Path(scratch, "cache")),
        }
        program = (*enter, sys.executable, "-m", "awslambdaric")
        with lambda_emulator(Path(scratch), env=env, memory=memory, program=program) as emulator:
            start = invoke(emulator, event)
            latencies: list[float] = []
            deadline = time.monotonic() + seconds
            while start is not None and time.monotonic() < deadline:
                latencies.append(invoke(emulator, event) or 0.0)
            children = family(emulator.process.pid)[1:]
            count_as_ours(sum(map(own_seconds, children)))
            used = max((peak(child.pid) for child in children if child.is_running()), default=0)
    if start is None or 0.0 in latencies:
        say(f"{subject.name}, {memory} MB: not enough")
        return Function(subject.name, memory, None, None, None, None, used)
    p50, p99 = percentile(latencies, 50), percentile(latencies, 99)
    say(f"{subject.name}, {memory} MB: start {start:.2f} s, {p50 * 1e3:.1f} ms, {used / MIB:.0f} MiB")
    return Function(subject.name, memory, start, statistics.fmean(latencies), p50, p99, used)


def invoke(emulator: LambdaEmulator, event: Mapping[str, Any]) -> float | None:
    """Return the seconds of an invocation, None if there was too little memory for it."""
    began = time.perf_counter()
    answer = emulator.invoke(event)
    seconds = time.perf_counter() - began
    if answer.get("statusCode") == http.HTTPStatus.OK:
        return seconds
    # As the kernel ends what takes too much; Decant refuses a model that cannot fit with 507.
    if "signal: killed" in str(answer.get("errorMessage")) or answer.get("statusCode") == INSUFFICIENT_STORAGE:
        return None
    raise BenchmarkFailed(f"the function answered {str(answer)[:500]}; its log ends with {emulator.log()[-2000:]}")


def _load(load: Load) -> dict[str, float]:
    return {name: getattr(load, name) for name in Load.__slots__}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizing", description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of the model, for requests")
    parser.add_argument("path", type=Path, help="its directory, with a subdirectory for each version")
    parser.add_argument("--shape", action="append", default=[], type=_shape, help="of an input: NAME=1,3,224,224")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    options = parser.parse_args()
    let_python_keep_what_it_compiles()
    plan = Plan(limited=[options.name], threaded=[options.name], seconds=options.seconds)
    try:
        subject = local(options.name, options.path.resolve(), dict(options.shape))
    except BenchmarkFailed as exc:
        sys.exit(str(exc))
    with TemporaryDirectory(prefix="sizing-") as directory:
        found = _findings([subject], Path(directory), plan)
    print("\n\n".join(found.tables))
    print("\n".join(["", *(f"- {note}" for note in found.notes)]))


def _shape(text: str) -> tuple[str, Shape]:
    name, _, sizes = text.partition("=")
    try:
        return name, tuple(int(size) for size in sizes.split(","))
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text}; want NAME=1,3,224,224") from exc


if __name__ == "__main__":
    main()
