"""What bounds the throughput of a tiny model: processor time of each answer, by whose code it goes to; system calls.

perf and strace tell, where they are installed and allowed to. Whoever is traced is slow, so of strace only counts are
used, each divided by the answers given meanwhile.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.children import decant, processor_seconds
from benchmarks.clients import GrpcClient
from benchmarks.forms import PROTOCOLS, GrpcForm, HttpForm, tfs_grpc, tfs_json, v2_binary, v2_grpc
from benchmarks.load import Press, press_grpc, press_http
from benchmarks.report import Findings, table
from benchmarks.tasks import BenchmarkFailed, Task

CALLERS = 16
SECONDS = 3
SHOWN = 8
"""Rows of a kind."""
_ATTACHED = 1.0
"""Seconds that strace may take to find all threads."""


def findings(task: Task, directory: Path, protocols: Sequence[str] = PROTOCOLS) -> Findings:
    found = Findings(f"Where the time of a tiny model's answers goes: {task.model}, {CALLERS} callers")
    tools = [tool for tool in ("perf", "strace") if shutil.which(tool)]
    found.notes += [f"{tool} is missing" for tool in ("perf", "strace") if tool not in tools]
    rows: list[tuple[str, str, float, str]] = []
    with ExitStack() as stack:
        scratch = directory / "hotspots"
        server = stack.enter_context(decant(task, scratch))
        presses: dict[str, Press] = {}
        if "tfs" in protocols:
            presses["REST"] = _http(server.rest_port, tfs_json(task), scratch)
            presses["gRPC"] = _grpc(server.grpc_port, tfs_grpc(task), scratch)
        if "v2" in protocols:
            presses["v2 binary"] = _http(server.rest_port, v2_binary(task), scratch)
            presses["v2 gRPC"] = _grpc(server.grpc_port, v2_grpc(task), scratch)
        pid = server.process.pid
        for protocol, press in presses.items():
            press(CALLERS, 1)
            rows.append((protocol, "processor time of an answer", _work(press, pid), "us"))
            if "perf" in tools:
                shares = _shares(press, pid, scratch / "perf")
                rows += [(protocol, f"of it in {name}", share, "%") for name, share in shares.items()]
            if "strace" in tools:
                calls = _calls(press, pid, scratch / "strace")
                rows += [(protocol, f"calls of {name} for an answer", number, "") for name, number in calls.items()]
    found.tables.append(table((" protocol", " what", "", " "), rows))
    found.figures["rows"] = rows
    return found


def _http(port: int, form: HttpForm, directory: Path) -> Press:
    return press_http(port, form.path, form.body, directory, form.headers)


def _grpc(port: int, form: GrpcForm, directory: Path) -> Press:
    with GrpcClient(port, form.message, form.method) as client:
        answer = len(client())
    return press_grpc(port, form.message, answer, directory, form.method)


def _work(press: Press, pid: int) -> float:
    """Microseconds of processor time for an answer, OpenVINO's inference and its idling threads included."""
    worked = processor_seconds(pid)
    answers = press(CALLERS, SECONDS).rate * SECONDS
    return (processor_seconds(pid) - worked) / answers * 1e6


def _shares(press: Press, pid: int, file: Path) -> Mapping[str, float]:
    argv = ["perf", "record", "--quiet", "-F", "999", "-o", str(file), "-p", str(pid)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as perf:
        press(CALLERS, SECONDS)
        perf.send_signal(signal.SIGINT)
    argv = ["perf", "report", "--stdio", "-i", str(file), "--sort", "dso"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise BenchmarkFailed(f"perf report ended with {done.returncode}: {done.stderr[-1000:]}")
    return parse_perf(done.stdout)


def parse_perf(report: str) -> Mapping[str, float]:
    """Return the percentage of each shared object, largest first."""
    found = re.findall(r"^ +([\d.]+)% +(\S+)", report, re.MULTILINE)
    return {name: float(share) for share, name in found[:SHOWN]}


def _calls(press: Press, pid: int, file: Path) -> Mapping[str, float]:
    argv = ["strace", "-c", "-f", "-q", "-o", str(file), "-p", str(pid)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as strace:
        # Of that it says nothing.
        time.sleep(_ATTACHED)
        load = press(CALLERS, SECONDS)
        strace.send_signal(signal.SIGINT)
    answers = load.rate * SECONDS
    return {name: calls / answers for name, calls in parse_strace(file.read_text()).items()} if answers else {}


def parse_strace(summary: str) -> Mapping[str, int]:
    """Return how often each system call was made, most often first."""
    # The column of errors is empty where there are none.
    found = re.findall(r"^ +[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:\d+ +)?(\w+)$", summary, re.MULTILINE)
    calls = {name: int(number) for number, name in found if name != "total"}
    return dict(sorted(calls.items(), key=lambda item: item[1], reverse=True)[:SHOWN])
