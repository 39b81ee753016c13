"""Requests a second and their latency against concurrency: callers in a closed loop, from 1 to 64.

At each number of callers the contenders take turns; before each turn the one before has finished what it was sent. The
callers share the machine's processors with what they call, so a server is charged for its clients; OpenVINO in process,
the ceiling, has no clients to pay for. The ceiling at a number of callers is the best of several settings there.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from benchmarks import peer
from benchmarks.children import Naive, Script, decant, openvino_alone, wait_until_idle
from benchmarks.clients import Call, GrpcClient, HttpClient
from benchmarks.forms import (
    PROTOCOLS,
    GrpcForm,
    HttpForm,
    naive,
    tfs_grpc,
    tfs_json,
    v2_binary,
    v2_grpc,
    v2_json,
)
from benchmarks.in_process import SETTINGS
from benchmarks.load import Load, Press, missing_tools, press_grpc, press_http
from benchmarks.report import Findings, Verdict, percentile, say, table
from benchmarks.tasks import Task
from tests.servers.processes import Process

CALLERS = (1, 2, 4, 8, 16, 32, 64)

CEILING = "OpenVINO in process"
REST, GRPC = "Decant REST", "Decant gRPC"
REST_2, GRPC_2 = "Decant REST, 2 workers", "Decant gRPC, 2 workers"
V2_JSON, V2_BINARY, V2_GRPC = "Decant v2 JSON", "Decant v2 binary", "Decant v2 gRPC"
NAIVE, PEER, PEER_GRPC = "naive handler", "MLServer", "MLServer gRPC"
OF_PROTOCOL = {"tfs": (REST, GRPC, NAIVE, REST_2, GRPC_2), "v2": (V2_JSON, V2_BINARY, V2_GRPC, PEER, PEER_GRPC)}
DECANT = (REST, GRPC, REST_2, GRPC_2, V2_JSON, V2_BINARY, V2_GRPC)

TARGETS = {
    ("resnet50", GRPC): 0.95,
    ("resnet50", REST): 0.85,
    ("resnet50", V2_BINARY): 0.95,
    ("resnet50", V2_GRPC): 0.95,
}
"""Of the ceiling."""


class Pace(NamedTuple):
    """How long a measurement takes, in seconds."""

    least: float
    each: float
    """And more for each caller, so that what is under way at the end does not count for much."""

    def __call__(self, callers: int) -> float:
        return self.least + callers * self.each


PACES = {"digits": Pace(2, 0), "resnet50": Pace(4, 0.06)}


class Contender(NamedTuple):
    name: str
    press: Press
    pid: int
    """Of the process that is to be idle before the next one's turn."""


class Cell(NamedTuple):
    model: str
    contender: str
    callers: int
    load: Load
    ceiling: float
    """The best rate of OpenVINO in process with as many callers."""

    @property
    def ratio(self) -> float:
        return self.load.rate / self.ceiling

    @property
    def queue(self) -> float:
        """Seconds that each waits where all stand in one line before OpenVINO."""
        return self.callers / self.ceiling


def findings(
    tasks: Sequence[Task],
    directory: Path,
    callers: Sequence[int] = CALLERS,
    hurry: float = 1,
    protocols: Sequence[str] = PROTOCOLS,
) -> tuple[Findings, list[Cell]]:
    """Measure; with ``hurry`` 2 in half the time.

    The cells are for plots.
    """
    found = Findings("Throughput: callers in a closed loop")
    found.notes += [f"{tool} is missing, so a client in Python took its place" for tool in missing_tools()]
    cells = []
    for task in tasks:
        scratch = directory / f"throughput-{task.model}"
        scratch.mkdir()
        cells += measure(task, scratch, callers, hurry, protocols, found)
    head = (" model", " server", "callers", "answers/s", "p50 ms", "p99 ms", "p99 / queue", "errors", "/ in process")
    found.tables.append(table(head, map(_row, cells)))
    found.verdicts += verdicts_of(cells)
    found.figures["cells"] = [
        {**cell._asdict(), "load": {name: getattr(cell.load, name) for name in Load.__slots__}} for cell in cells
    ]
    return found, cells


def measure(
    task: Task, directory: Path, callers: Sequence[int], hurry: float, protocols: Sequence[str], found: Findings
) -> list[Cell]:
    pace = Pace(*(seconds / hurry for seconds in PACES[task.model]))
    cells = []
    with ExitStack() as stack:
        alone = stack.enter_context(openvino_alone(task, directory))
        contenders = list(_contenders(task, directory, max(callers), protocols, stack, found))
        for number in callers:
            ceiling = _ceiling(alone, number, pace(number) / 2, found)
            cells.append(Cell(task.model, CEILING, number, ceiling, ceiling.rate))
            for contender in contenders:
                load = contender.press(number, pace(number))
                wait_until_idle(contender.pid)
                cells.append(Cell(task.model, contender.name, number, load, ceiling.rate))
            say(f"{task.model}, {number} callers: {', '.join(_shown(cell) for cell in cells[-len(contenders) - 1 :])}")
    return cells


def _ceiling(alone: Script, callers: int, seconds: float, found: Findings) -> Load:
    loads = {}
    for setting in SETTINGS:
        result = alone.ask(do="press", setting=setting, callers=callers, seconds=seconds)
        latencies = result["latencies"]
        rate = len(latencies) / result["seconds"]
        loads[setting] = Load(rate, percentile(latencies, 50), percentile(latencies, 99), 0)
    best = max(loads, key=lambda setting: loads[setting].rate)
    say(f"in process, {callers} callers: {', '.join(f'{name} {load.rate:.1f}/s' for name, load in loads.items())}")
    found.figures.setdefault("settings in process", []).append(
        {"callers": callers, "best": best, "rates": {name: load.rate for name, load in loads.items()}}
    )
    return loads[best]


def _contenders(
    task: Task, directory: Path, most: int, protocols: Sequence[str], stack: ExitStack, found: Findings
) -> Iterator[Contender]:
    """Start the servers, and check the answers of each with as many callers as there will be."""
    server = stack.enter_context(decant(task, directory / "decant"))
    rest, grpc = (server.process, server.rest_port), (server.process, server.grpc_port)
    if "tfs" in protocols:
        yield _http(REST, *rest, tfs_json(task), directory, most)
        yield _grpc(GRPC, *grpc, tfs_grpc(task), directory, most)
        handler = stack.enter_context(Naive(task, directory))
        yield _http(NAIVE, handler, handler.port, naive(task), directory, 1)
    if "v2" in protocols:
        yield _http(V2_JSON, *rest, v2_json(task), directory, most)
        yield _http(V2_BINARY, *rest, v2_binary(task), directory, most)
        yield _grpc(V2_GRPC, *grpc, v2_grpc(task), directory, most)
        if reason := peer.why_not():
            found.notes.append(f"no {PEER}: {reason}")
        else:
            mlserver = stack.enter_context(peer.MLServer(task, directory / "mlserver"))
            yield _http(PEER, mlserver, mlserver.port, v2_json(task), directory, 1)
            yield _grpc(PEER_GRPC, mlserver, mlserver.grpc_port, v2_grpc(task), directory, 1)
    if "tfs" in protocols and task.model == "digits" and _has_workers():
        pair = stack.enter_context(decant(task, directory / "pair", "--workers", "2"))
        yield _http(REST_2, pair.process, pair.rest_port, tfs_json(task), directory, most)
        yield _grpc(GRPC_2, pair.process, pair.grpc_port, tfs_grpc(task), directory, most)


def _http(name: str, process: Process, port: int, form: HttpForm, directory: Path, most: int) -> Contender:
    with ExitStack() as stack:
        clients = [stack.enter_context(HttpClient(port, form.path, form.body, form.headers)) for _ in range(most)]
        for answer in _all_at_once(clients):
            form.check(name, answer)
    return Contender(name, press_http(port, form.path, form.body, directory, form.headers), process.pid)


def _grpc(name: str, process: Process, port: int, form: GrpcForm, directory: Path, most: int) -> Contender:
    with ExitStack() as stack:
        clients = [stack.enter_context(GrpcClient(port, form.message, form.method)) for _ in range(most)]
        # A status that is not OK raises.
        answers = _all_at_once(clients)
    for answer in answers:
        form.check(name, answer)
    press = press_grpc(port, form.message, len(answers[0]), directory, form.method)
    return Contender(name, press, process.pid)


def _all_at_once(clients: Sequence[Call]) -> list[bytes]:
    """Two answers for each client, all of them asking at the same time."""

    def twice(client: Call) -> list[bytes]:
        return [client(), client()]

    with ThreadPoolExecutor(len(clients)) as pool:
        return list(itertools.chain.from_iterable(pool.map(twice, clients)))


def _has_workers() -> bool:
    argv = [sys.executable, "-m", "handlers.cli", "serve", "--help"]
    return "--workers" in subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout


def verdicts_of(cells: Sequence[Cell]) -> list[Verdict]:
    """The worst of all numbers of callers counts."""
    found = []
    for (model, name), target in TARGETS.items():
        ours = [cell for cell in cells if (cell.model, cell.contender) == (model, name)]
        if ours:
            worst = min(ours, key=lambda cell: cell.ratio)
            what = f"throughput, {model}: {name}, worst of all concurrencies (at {worst.callers})"
            found.append(Verdict(what, worst.ratio, "x in process", target, at_least=True))
    ours = [cell for cell in cells if cell.contender in DECANT]
    if ours:
        found.append(Verdict("throughput: errors of Decant", sum(cell.load.errors for cell in ours), "errors", 0))
    return found


def _row(cell: Cell) -> list[str | float | None]:
    load = cell.load
    ratio = "" if cell.contender == CEILING else f"{cell.ratio:.3f}"
    # wrk knows of no latency where nobody had an answer.
    latencies = [load.p50 * 1e3, load.p99 * 1e3, load.p99 / cell.queue] if load.rate else [None, None, None]
    return [cell.model, cell.contender, cell.callers, load.rate, *latencies, load.errors, ratio]


def _shown(cell: Cell) -> str:
    return f"{cell.contender} {cell.load.rate:.1f}/s, p50 {cell.load.p50 * 1e3:.2f} ms"


def by_contender(cells: Sequence[Cell], model: str) -> Mapping[str, list[Cell]]:
    lines: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.model == model:
            lines.setdefault(cell.contender, []).append(cell)
    return lines
