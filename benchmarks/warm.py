"""What a warm request takes above the inference in it: keep-alive, one request at a time.

Within a round each contender has some requests in a row, then the next; OpenVINO's own call has its turn like them, in
a process that does nothing else. What is told as "added" is the median over the rounds of how much a contender's p50 is
above that call's p50 in the same round.

What the client and the transport take is within it, and is shown by servers that answer at once with as many bytes.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.children import QUIET, Naive, Script, decant, openvino_alone
from benchmarks.clients import GrpcClient, HttpClient, http_request, seconds_of
from benchmarks.load import missing_tools, one_by_one_grpc
from benchmarks.report import Findings, Verdict, median_difference, percentile, say, table
from benchmarks.tasks import Task
from tests.servers.lambda_events import function_url, response_body

REQUESTS = {"digits": 250, "resnet50": 10}
"""In a row, of each contender in each round."""
ROUNDS = 20

OPENVINO = "OpenVINO's call"
ECHO, GRPC_ECHO, H2LOAD_ECHO = "TCP echo, raw socket", "gRPC echo, grpcio client", "gRPC echo, h2load"
REST, LAMBDA, NAIVE = "Decant REST", "Decant Lambda event, in process", "naive handler REST"
GRPC, GRPC_H2LOAD = "Decant gRPC, grpcio client", "Decant gRPC, h2load"
REFERENCES = (ECHO, GRPC_ECHO, H2LOAD_ECHO)

TARGETS = {
    ("digits", REST): 0.2,
    ("digits", GRPC): 0.25,
    ("digits", GRPC_H2LOAD): 0.25,
    ("digits", LAMBDA): 0.3,
    ("resnet50", REST): 5.0,
    ("resnet50", GRPC): 1.0,
    ("resnet50", GRPC_H2LOAD): 1.0,
}
"""Milliseconds above OpenVINO's call."""

Take = Callable[[int], Sequence[float]]
"""Make so many requests and return the seconds of each."""


def findings(tasks: Sequence[Task], directory: Path, rounds: int = ROUNDS) -> Findings:
    found = Findings("Warm latency: one request at a time, milliseconds")
    rows = []
    for task in tasks:
        scratch = directory / f"warm-{task.model}"
        scratch.mkdir()
        seconds = measure(task, scratch, rounds)
        p50s = {who: [percentile(of_round, 50) * 1e3 for of_round in of_rounds] for who, of_rounds in seconds.items()}
        for who, of_rounds in seconds.items():
            every = [second * 1e3 for of_round in of_rounds for second in of_round]
            added = None if who in (OPENVINO, *REFERENCES) else median_difference(p50s[who], p50s[OPENVINO])
            rows.append((task.model, who, len(every), percentile(every, 50), percentile(every, 99), added))
            if (task.model, who) in TARGETS and added is not None:
                what = f"warm predict, {task.model}: {who}, p50 above {OPENVINO}"
                found.verdicts.append(Verdict(what, added, "ms", TARGETS[task.model, who]))
        found.figures[task.model] = seconds
    found.tables.append(table((" model", " what", "requests", "p50", "p99", "added to p50"), rows))
    return found


def measure(task: Task, directory: Path, rounds: int) -> Mapping[str, list[Sequence[float]]]:
    with ExitStack() as stack:
        contenders = _contenders(task, directory, stack)
        count = REQUESTS[task.model]
        for take in contenders.values():
            take(count)
        seconds: dict[str, list[Sequence[float]]] = {who: [] for who in contenders}
        # A collection would fall on whoever's turn it is.
        gc.collect()
        gc.disable()
        stack.callback(gc.enable)
        for number in range(rounds):
            for who, take in contenders.items():
                seconds[who].append(take(count))
            p50s = ", ".join(f"{who} {percentile(s[-1], 50) * 1e3:.3f}" for who, s in seconds.items())
            say(f"round {number + 1} of {rounds}: {task.model}, p50 in ms: {p50s}")
    return seconds


def _contenders(task: Task, directory: Path, stack: ExitStack) -> dict[str, Take]:
    """Start them all, check an answer of each, and return how to ask them."""
    alone = stack.enter_context(openvino_alone(task, directory))
    server = stack.enter_context(decant(task, directory / "decant"))
    naive = stack.enter_context(Naive(task, directory))
    function = stack.enter_context(_function(task, directory))
    # Clients come after all processes: gRPC does not like to be forked.
    path = f"/v1/models/{task.model}:predict"
    rest = partial(HttpClient, server.rest_port, path, task.request())
    grpc = stack.enter_context(GrpcClient(server.grpc_port, task.message()))
    naive_rest = partial(HttpClient, naive.port, "/predict", task.request())
    with rest() as client:
        response = client.exchange()
        task.check(REST, client())
    task.check_message(GRPC, grpc())
    with naive_rest() as client:
        task.check(NAIVE, client())
    task.check(LAMBDA, response_body(function.ask(count=1)["answer"]))
    contenders: dict[str, Take] = {
        OPENVINO: lambda count: _floats(alone.ask(do="one_by_one", count=count)),
        REST: partial(_over_http, rest),
        GRPC: lambda count: seconds_of(grpc, count),
        LAMBDA: lambda count: _floats(function.ask(count=count)["seconds"]),
        NAIVE: partial(_over_http, naive_rest),
    }
    tcp_echo = _echo("tcp", http_request(path, task.request()), response, directory, stack)
    grpc_echo = _echo("grpc", task.message(), grpc(), directory, stack)
    echo = stack.enter_context(GrpcClient(grpc_echo, task.message()))
    contenders[ECHO] = partial(_over_http, partial(HttpClient, tcp_echo, path, task.request()))
    contenders[GRPC_ECHO] = lambda count: seconds_of(echo, count)
    if "h2load" not in missing_tools():
        contenders[GRPC_H2LOAD] = one_by_one_grpc(server.grpc_port, task.message(), directory)
        contenders[H2LOAD_ECHO] = one_by_one_grpc(grpc_echo, task.message(), directory)
    return contenders


def _over_http(connect: Callable[[], HttpClient], count: int) -> Sequence[float]:
    """A connection for each turn, as servers close one that has long been idle; its first request does not count."""
    with connect() as client:
        client()
        return seconds_of(client, count)


def _function(task: Task, directory: Path) -> Script:
    event = directory / "event.json"
    path = f"/v1/models/{task.model}:predict"
    headers = {"content-type": "application/json"}
    event.write_text(json.dumps(function_url("POST", path, {}, headers, task.request())))
    env = {
        **QUIET,
        "DECANT_MODEL_NAME": task.model,
        "DECANT_MODEL_PATH": str(task.disk),
        "DECANT_CACHE_DIR": str(directory / "lambda"),
    }
    return Script("lambda_in_process.py", str(event), log=directory / "lambda.log", env=env)


def _echo(kind: str, request: bytes, response: bytes, directory: Path, stack: ExitStack) -> int:
    files = []
    for name, content in (("request", request), ("response", response)):
        file = directory / f"{kind}-{name}"
        file.write_bytes(content)
        files.append(str(file))
    port: int = stack.enter_context(Script("echo.py", kind, *files, log=directory / f"{kind}-echo.log")).ask()
    return port


def _floats(values: list[float]) -> Sequence[float]:
    return values
