"""Memory of a server above that of OpenVINO with the same model: resident pages, after some predictions."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from benchmarks.children import Naive, decant, family, openvino_alone
from benchmarks.clients import Call, GrpcClient, HttpClient
from benchmarks.report import Findings, Verdict, say, table
from benchmarks.tasks import Task

PREDICTS = {"digits": 500, "resnet50": 50}
ROUNDS = 3

OPENVINO, NAIVE = "OpenVINO alone", "naive handler"
HTTP, WITH_GRPC = "Decant, HTTP only", "Decant, HTTP + gRPC"

TARGETS = {HTTP: 45.0, WITH_GRPC: 65.0}
"""MiB above OpenVINO alone."""

Usage = dict[str, float]
"""MiB, by the name that the kernel gives it: Rss, Pss."""


def findings(tasks: Sequence[Task], directory: Path, rounds: int = ROUNDS) -> Findings:
    found = Findings("Memory after some predictions, MiB")
    rows = []
    for task in tasks:
        used: dict[str, list[Usage]] = {who: [] for who in CONTENDERS}
        for number in range(rounds):
            for who, running in CONTENDERS.items():
                scratch = directory / f"memory-{task.model}-{number}-{len(used[who])}-{who.replace(' ', '-')}"
                scratch.mkdir()
                with running(task, scratch) as pid:
                    used[who].append(usage(pid))
                say(f"round {number + 1} of {rounds}: {task.model}, {who}: {used[who][-1]}")
        medians = {who: {name: statistics.median(u[name] for u in us) for name in us[0]} for who, us in used.items()}
        alone = medians[OPENVINO]
        for who, median in medians.items():
            above = None if who == OPENVINO else median["Rss"] - alone["Rss"]
            rows.append((task.model, who, PREDICTS[task.model], median["Rss"], median["Pss"], above))
            if who in TARGETS and above is not None:
                found.verdicts.append(Verdict(f"Rss above {OPENVINO}, {task.model}: {who}", above, "MiB", TARGETS[who]))
        found.figures[task.model] = used
    found.tables.append(table((" model", " what", "predictions", "Rss", "Pss", "Rss above OpenVINO"), rows))
    return found


def usage(pid: int) -> Usage:
    """Sum over a process and its children; see proc_pid_smaps_rollup(5)."""
    sums = {"Rss": 0.0, "Pss": 0.0}
    for process in family(pid):
        # A child may end while we look.
        with suppress(FileNotFoundError, ProcessLookupError):
            for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in sums:
                    sums[name] += int(value.split()[0]) / 1024
    return sums


@contextmanager
def _alone(task: Task, directory: Path) -> Iterator[int]:
    with openvino_alone(task, directory) as script:
        script.ask(do="one_by_one", count=PREDICTS[task.model])
        yield script.pid


@contextmanager
def _naive(task: Task, directory: Path) -> Iterator[int]:
    with Naive(task, directory) as server, HttpClient(server.port, "/predict", task.request()) as client:
        task.check(NAIVE, _last(client, task))
        yield server.pid


@contextmanager
def _decant(task: Task, directory: Path, with_grpc: bool) -> Iterator[int]:
    with ExitStack() as stack:
        server = stack.enter_context(decant(task, directory, with_grpc=with_grpc))
        path = f"/v1/models/{task.model}:predict"
        client = stack.enter_context(HttpClient(server.rest_port, path, task.request()))
        task.check(HTTP, _last(client, task))
        if with_grpc:
            grpc = stack.enter_context(GrpcClient(server.grpc_port, task.message()))
            task.check_message(WITH_GRPC, _last(grpc, task))
        yield server.process.pid


def _last(call: Call, task: Task) -> bytes:
    for _ in range(PREDICTS[task.model] - 1):
        call()
    return call()


CONTENDERS: dict[str, Callable[[Task, Path], AbstractContextManager[int]]] = {
    OPENVINO: _alone,
    HTTP: partial(_decant, with_grpc=False),
    WITH_GRPC: partial(_decant, with_grpc=True),
    NAIVE: _naive,
}
"""Each yields the number of a process that has made its predictions."""
