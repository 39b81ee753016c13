"""What a warm request takes above the inference in it: keep-alive, one request at a time.

Within a round each contender has some requests in a row, then the next; OpenVINO's own call has its turn like them, in
a process that does nothing else. What is told as "added" is the median over the rounds of how much a contender's p50 is
above that call's p50 in the same round.

What the client and the transport take is within it, and is shown by servers that answer at once with as many bytes.
"""

from __future__ import annotations

import gc
import json
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks import peer
from benchmarks.children import QUIET, Naive, Script, decant, openvino_alone
from benchmarks.clients import GrpcClient, HttpClient, http_request, seconds_of
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
from benchmarks.load import missing_tools, one_by_one_grpc
from benchmarks.report import Findings, Verdict, median_difference, percentile, say, table
from benchmarks.tasks import Task
from tests.servers.decant import Decant
from tests.servers.lambda_events import function_url, response_body

REQUESTS = {"digits": 250, "resnet50": 10}
"""In a row, of each contender in each round."""
ROUNDS = 20

OPENVINO = "OpenVINO's call"
ECHO, GRPC_ECHO, H2LOAD_ECHO = "TCP echo, raw socket", "gRPC echo, grpcio client", "gRPC echo, h2load"
REST, LAMBDA, NAIVE = "Decant REST", "Decant Lambda event, in process", "naive handler REST"
GRPC, GRPC_H2LOAD = "Decant gRPC, grpcio client", "Decant gRPC, h2load"
V2_ECHO, V2_GRPC_ECHO = "TCP echo, raw socket, as v2 binary", "gRPC echo, h2load, as v2 gRPC"
REFERENCES = (ECHO, GRPC_ECHO, H2LOAD_ECHO, V2_ECHO, V2_GRPC_ECHO)
V2_JSON, V2_BINARY = "Decant v2 JSON", "Decant v2 binary"
V2_GRPC, V2_GRPC_H2LOAD = "Decant v2 gRPC, grpcio client", "Decant v2 gRPC, h2load"
PEER, PEER_GRPC = "MLServer REST", "MLServer gRPC, grpcio client"
TOLD = (V2_JSON, V2_BINARY, V2_GRPC, V2_GRPC_H2LOAD)
"""Who says how much of a request was inference: Decant's statistics of the Open Inference Protocol."""

TARGETS = {
    ("digits", REST): 0.2,
    ("digits", GRPC): 0.25,
    ("digits", GRPC_H2LOAD): 0.25,
    ("digits", LAMBDA): 0.3,
    ("resnet50", REST): 5.0,
    ("resnet50", GRPC): 1.0,
    ("resnet50", GRPC_H2LOAD): 1.0,
    ("resnet50", V2_BINARY): 1.0,
    ("resnet50", V2_GRPC): 1.0,
    ("resnet50", V2_GRPC_H2LOAD): 1.0,
}
"""Milliseconds above OpenVINO's call."""

Take = Callable[[int], Sequence[float]]
"""Make so many requests and return the seconds of each."""


class Measured(NamedTuple):
    seconds: dict[str, list[Sequence[float]]]
    """Of each request, by contender and round."""
    inference: dict[str, list[float]]
    """Mean seconds of a round's requests that were inference, by contender, of those who tell: `TOLD`."""


class Inferences(NamedTuple):
    """What a server says of all that it has run."""

    number: int
    seconds: float


def findings(
    tasks: Sequence[Task], directory: Path, rounds: int = ROUNDS, protocols: Sequence[str] = PROTOCOLS
) -> Findings:
    found = Findings("Warm latency: one request at a time, milliseconds")
    rows = []
    for task in tasks:
        scratch = directory / f"warm-{task.model}"
        scratch.mkdir()
        seconds, inference = measure(task, scratch, rounds, protocols)
        p50s = {who: [percentile(of_round, 50) * 1e3 for of_round in of_rounds] for who, of_rounds in seconds.items()}
        for who, of_rounds in seconds.items():
            every = [second * 1e3 for of_round in of_rounds for second in of_round]
            added = None if who in (OPENVINO, *REFERENCES) else median_difference(p50s[who], p50s[OPENVINO])
            told = statistics.median(inference[who]) * 1e3 if who in inference else None
            rows.append((task.model, who, len(every), percentile(every, 50), percentile(every, 99), added, told))
            if (task.model, who) in TARGETS and added is not None:
                what = f"warm predict, {task.model}: {who}, p50 above {OPENVINO}"
                found.verdicts.append(Verdict(what, added, "ms", TARGETS[task.model, who]))
        found.figures[task.model] = {"seconds": seconds, "inference": inference}
    head = (" model", " what", "requests", "p50", "p99", "added to p50", "mean inference in it")
    found.tables.append(table(head, rows))
    return found


def measure(task: Task, directory: Path, rounds: int, protocols: Sequence[str]) -> Measured:
    with ExitStack() as stack:
        alone = stack.enter_context(openvino_alone(task, directory))
        server = stack.enter_context(decant(task, directory / "decant"))
        contenders: dict[str, Take] = {OPENVINO: lambda count: _floats(alone.ask(do="one_by_one", count=count))}
        if "tfs" in protocols:
            contenders |= _tfs(task, server, directory, stack)
        if "v2" in protocols:
            contenders |= _v2(task, server, directory, stack)
        count = REQUESTS[task.model]
        for take in contenders.values():
            take(count)
        seconds: dict[str, list[Sequence[float]]] = {who: [] for who in contenders}
        inference: dict[str, list[float]] = {who: [] for who in contenders if who in TOLD}
        # A collection would fall on whoever's turn it is.
        gc.collect()
        gc.disable()
        stack.callback(gc.enable)
        for number in range(rounds):
            for who, take in contenders.items():
                before = _inferences(server, task) if who in inference else None
                seconds[who].append(take(count))
                if before is not None:
                    after = _inferences(server, task)
                    inference[who].append((after.seconds - before.seconds) / (after.number - before.number))
            p50s = ", ".join(f"{who} {percentile(s[-1], 50) * 1e3:.3f}" for who, s in seconds.items())
            say(f"round {number + 1} of {rounds}: {task.model}, p50 in ms: {p50s}")
    return Measured(seconds, inference)


def _inferences(server: Decant, task: Task) -> Inferences:
    (row,) = server.get(f"/v2/models/{task.model}/stats").body["model_stats"]
    duration = row["inference_stats"]["compute_infer"]
    return Inferences(duration["count"], duration["ns"] / 1e9)


def _tfs(task: Task, server: Decant, directory: Path, stack: ExitStack) -> dict[str, Take]:
    """Start what else there is, check an answer of each, and return how to ask them."""
    handler = stack.enter_context(Naive(task, directory))
    function = stack.enter_context(_function(task, directory))
    # Clients come after all processes: gRPC does not like to be forked.
    task.check(LAMBDA, response_body(function.ask(count=1)["answer"]))
    rest, response = _http(REST, server.rest_port, tfs_json(task))
    naive_rest, _ = _http(NAIVE, handler.port, naive(task))
    grpc, answer = _grpc(GRPC, server.grpc_port, tfs_grpc(task), stack)
    tcp_echo = _tcp_echo(tfs_json(task), response, directory, stack)
    port = _echo("grpc", task.message(), answer, directory, stack)
    grpc_echo = stack.enter_context(GrpcClient(port, task.message()))
    asked: dict[str, Take] = {
        REST: rest,
        GRPC: grpc,
        LAMBDA: lambda count: _floats(function.ask(count=count)["seconds"]),
        NAIVE: naive_rest,
        ECHO: tcp_echo,
        GRPC_ECHO: lambda count: seconds_of(grpc_echo, count),
    }
    if "h2load" not in missing_tools():
        asked[GRPC_H2LOAD] = one_by_one_grpc(server.grpc_port, task.message(), directory)
        asked[H2LOAD_ECHO] = one_by_one_grpc(port, task.message(), directory)
    return asked


def _v2(task: Task, server: Decant, directory: Path, stack: ExitStack) -> dict[str, Take]:
    """As `_tfs`."""
    mlserver = None if peer.why_not() else stack.enter_context(peer.MLServer(task, directory / "mlserver"))
    binary, raw = v2_binary(task), v2_grpc(task)
    asked: dict[str, Take] = {}
    asked[V2_JSON], _ = _http(V2_JSON, server.rest_port, v2_json(task))
    asked[V2_BINARY], response = _http(V2_BINARY, server.rest_port, binary)
    asked[V2_GRPC], answer = _grpc(V2_GRPC, server.grpc_port, raw, stack)
    if mlserver is not None:
        asked[PEER], _ = _http(PEER, mlserver.port, v2_json(task))
        asked[PEER_GRPC], _ = _grpc(PEER_GRPC, mlserver.grpc_port, raw, stack)
    asked[V2_ECHO] = _tcp_echo(binary, response, directory, stack)
    if "h2load" not in missing_tools():
        port = _echo("grpc", raw.message, answer, directory, stack)
        asked[V2_GRPC_H2LOAD] = one_by_one_grpc(server.grpc_port, raw.message, directory, raw.method)
        asked[V2_GRPC_ECHO] = one_by_one_grpc(port, raw.message, directory, raw.method)
    return asked


def _http(who: str, port: int, form: HttpForm) -> tuple[Take, bytes]:
    """Return how to ask, and a response that has been found right, head and body."""
    connect = partial(HttpClient, port, form.path, form.body, form.headers)
    with connect() as client:
        response = client.exchange()
        form.check(who, client())
    return partial(_over_http, connect), response


def _grpc(who: str, port: int, form: GrpcForm, stack: ExitStack) -> tuple[Take, bytes]:
    """Return how to ask, and an answer that has been found right."""
    client = stack.enter_context(GrpcClient(port, form.message, form.method))
    answer = client()
    form.check(who, answer)
    return lambda count: seconds_of(client, count), answer


def _tcp_echo(form: HttpForm, response: bytes, directory: Path, stack: ExitStack) -> Take:
    port = _echo("tcp", http_request(form.path, form.body, form.headers), response, directory, stack)
    return partial(_over_http, partial(HttpClient, port, form.path, form.body, form.headers))


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
        file = directory / f"{kind}-{len(request)}-{name}"
        file.write_bytes(content)
        files.append(str(file))
    port: int = stack.enter_context(
        Script("echo.py", kind, *files, log=directory / f"{kind}-{len(request)}-echo.log")
    ).ask()
    return port


def _floats(values: list[float]) -> Sequence[float]:
    return values
