"""Callers in a closed loop, by tools that cost little themselves: wrk for HTTP/1.1, h2load for gRPC.

Without them a script of ours does it, in Python and so at a price: what is told says by what it was measured.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.children import Script
from benchmarks.forms import JSON, PREDICT
from benchmarks.report import percentile
from benchmarks.tasks import BenchmarkFailed

HEADERS = ("content-type: application/grpc", "te: trailers")

# What wrk prints itself is rounded, and has no count of errors when there is none.
_REPORT = """
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'result {"requests": %d, "microseconds": %d, "errors": %d, "p50": %d, "p99": %d}\\n', summary.requests,
    summary.duration, e.connect + e.read + e.write + e.timeout + e.status, latency:percentile(50),
    latency:percentile(99)))
end
"""
_H2LOAD_REQUESTS = re.compile(r"requests: .* (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout")
_H2LOAD_RATE = re.compile(r"finished in .*?, ([\d.]+) req/s")
_H2LOAD_DATA = re.compile(r"\((\d+)\) data$", re.MULTILINE)
_PREFIX = 5
"""Bytes before each message of gRPC: whether it is compressed, and its length."""


@dataclass(frozen=True, slots=True)
class Load:
    """What some callers got in a while."""

    rate: float
    """Good answers in a second."""
    p50: float
    p99: float
    """Both in seconds."""
    errors: int


Press = Callable[[int, float], Load]
"""Let so many callers go on for so many seconds."""


def missing_tools() -> list[str]:
    return [tool for tool in ("wrk", "h2load") if not shutil.which(tool)]


def press_http(port: int, path: str, body: bytes, directory: Path, headers: Mapping[str, str] = JSON) -> Press:
    """wrk, with one thread and a connection for each caller."""
    file = _file(port, body, directory).with_suffix(".body")
    file.write_bytes(body)
    if not shutil.which("wrk"):
        return _press_in_python("http", port, path, file, json.dumps(dict(headers)))
    script = file.with_suffix(".lua")
    fields = "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in headers.items())
    # Opened as bytes, of which a body has any.
    script.write_text(
        f'local file = io.open("{file}", "rb")\nwrk.method, wrk.body = "POST", file:read("*a")\n{fields}{_REPORT}'
    )

    def press(callers: int, seconds: float) -> Load:
        duration = math.ceil(seconds)
        argv = ["wrk", "-t1", f"-c{callers}", f"-d{duration}s", "--timeout", "60s", "-s", str(script)]
        return parse_wrk(_run([*argv, f"http://127.0.0.1:{port}{path}"], duration + 90))

    return press


def parse_wrk(output: str) -> Load:
    """Read the line that our script makes wrk print."""
    found = re.search(r"^result (.*)$", output, re.MULTILINE)
    if not found:
        raise BenchmarkFailed(f"wrk printed no result: {output[-2000:]}")
    result = json.loads(found[1])
    # A request that was answered with 400 or above counts as a request, too.
    good = max(0, result["requests"] - result["errors"])
    return Load(good / result["microseconds"] * 1e6, result["p50"] / 1e6, result["p99"] / 1e6, result["errors"])


def press_grpc(port: int, message: bytes, answer: int, directory: Path, method: str = PREDICT) -> Press:
    """h2load, with a connection for each caller and one request at a time on it.

    Args:
        answer: bytes of a right answer's message. An error has none, which tells good answers from errors: h2load
            itself looks at HTTP's status, not at gRPC's.
    """
    file = _file(port, message, directory).with_suffix(".message")
    if not shutil.which("h2load"):
        file.write_bytes(message)
        return _press_in_python("grpc", port, method, file)
    file.write_bytes(grpc_frame(message))

    def press(callers: int, seconds: float) -> Load:
        log = file.with_suffix(".log")
        # It adds to what is there.
        log.unlink(missing_ok=True)
        # Without its warm-up time, whose bytes it would count and whose requests not.
        argv = [*_h2load(port, method, file, log), f"-c{callers}", "-m1", f"-D{math.ceil(seconds)}"]
        return parse_h2load(_run(argv, seconds + 90), log.read_text() if log.exists() else "", answer)

    return press


def one_by_one_grpc(port: int, message: bytes, directory: Path, method: str = PREDICT) -> Callable[[int], list[float]]:
    """h2load with one caller: a function that makes so many requests and returns the seconds of each."""
    file = _file(port, message, directory).with_suffix(".one")
    log = file.with_suffix(".one.log")
    file.write_bytes(grpc_frame(message))

    def take(count: int) -> list[float]:
        log.unlink(missing_ok=True)
        # The first of a connection has its settings before it, and does not count.
        _run([*_h2load(port, method, file, log), "-c1", "-m1", f"-n{count + 1}"], 120)
        return h2load_latencies(log.read_text())[1:]

    return take


def _h2load(port: int, method: str, file: Path, log: Path) -> list[str]:
    headers = [part for header in HEADERS for part in ("-H", header)]
    return ["h2load", f"--log-file={log}", "-d", str(file), *headers, f"http://127.0.0.1:{port}/{method}"]


def _file(port: int, content: bytes, directory: Path) -> Path:
    # A port is sent more than one.
    return directory / f"{port}-{zlib.crc32(content):08x}"


def grpc_frame(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def parse_h2load(output: str, log: str, answer: int) -> Load:
    """Read what h2load prints, and the line of its log for each request: start, status, microseconds."""
    rate, requests, data = (pattern.search(output) for pattern in (_H2LOAD_RATE, _H2LOAD_REQUESTS, _H2LOAD_DATA))
    if not (rate and requests and data):
        raise BenchmarkFailed(f"h2load printed no result: {output[-2000:]}")
    done, succeeded, *failures = map(int, requests.groups())
    with_message = round(int(data[1]) / (answer + _PREFIX))
    # Of an answer that was under way at the end some bytes may count, so less than one too many for each caller.
    without = max(0, succeeded - with_message)
    good = (succeeded - without) / done if done else 0.0
    return _load(float(rate[1]) * good, h2load_latencies(log), sum(failures) + without)


def h2load_latencies(log: str) -> list[float]:
    """Return the seconds that each request took, from h2load's log."""
    return [int(line.split("\t")[2]) / 1e6 for line in log.splitlines()]


def _press_in_python(kind: str, port: int, path: str, file: Path, *headers: str) -> Press:
    def press(callers: int, seconds: float) -> Load:
        with Script("press.py", kind, str(port), path, str(file), *headers, log=file.with_suffix(".press")) as script:
            result = script.ask(callers=callers, seconds=seconds, timeout=seconds + 90)
        return _load(len(result["latencies"]) / result["seconds"], result["latencies"], result["errors"])

    return press


def _load(rate: float, latencies: Sequence[float], errors: int) -> Load:
    p50, p99 = (percentile(latencies, percent) if latencies else 0.0 for percent in (50, 99))
    return Load(rate, p50, p99, errors)


def _run(argv: list[str], timeout: float) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise BenchmarkFailed(f"{argv[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout
