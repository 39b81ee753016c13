"""Callers in a closed loop in Python, for machines without wrk or h2load: one thread and one connection each.

A script that ``benchmarks.children.Script`` talks to. Run as ``python benchmarks/press.py http PORT PATH FILE HEADERS``
(the headers are JSON) or ``grpc PORT METHOD FILE``.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import grpc

from benchmarks.clients import GrpcClient, HttpClient
from benchmarks.tasks import BenchmarkFailed

Client = HttpClient | GrpcClient


def connect(kind: str, port: str, path: str, file: str, headers: str = "") -> Client:
    content = Path(file).read_bytes()
    if kind == "grpc":
        return GrpcClient(int(port), content, path)
    return HttpClient(int(port), path, content, json.loads(headers))


def press(clients: list[Client], seconds: float) -> dict[str, Any]:
    over = threading.Event()
    latencies: list[float] = []
    errors: list[Exception] = []

    def go_on(client: Client) -> None:
        while not over.is_set():
            began = time.perf_counter()
            try:
                client()
            except (BenchmarkFailed, OSError, grpc.RpcError) as exc:
                errors.append(exc)
                # The connection may be gone for good.
                return
            latencies.append(time.perf_counter() - began)

    threads = [threading.Thread(target=go_on, args=(client,)) for client in clients]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    over.wait(seconds)
    over.set()
    elapsed = time.perf_counter() - began
    for thread in threads:
        thread.join()
    return {"seconds": elapsed, "latencies": latencies, "errors": len(errors)}


def main() -> None:
    for line in sys.stdin:
        command = json.loads(line)
        clients = [connect(*sys.argv[1:]) for _ in range(command["callers"])]
        print(json.dumps(press(clients, command["seconds"])), flush=True)
        for client in clients:
            client.__exit__(None, None, None)


if __name__ == "__main__":
    main()
