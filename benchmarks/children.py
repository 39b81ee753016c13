"""Processes that a benchmark starts: each is gone, with all it started, when its ``with`` block ends."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import psutil

from benchmarks.tasks import BenchmarkFailed, Task
from tests.servers.decant import Decant, decant_serve
from tests.servers.processes import Process, accepts_connections, clean_environment, free_port

HERE = Path(__file__).parent

QUIET = {"CI": "true"}
"""OpenVINO's telemetry takes this as a refusal. The naive servers would otherwise start it."""

IDLE = 0.1
"""Seconds without work after which a server is taken to be done with what it was sent."""


class Script:
    """A script of ours that takes commands, JSON in a line each, and answers each with a line."""

    def __init__(self, name: str, *args: str, log: Path, env: Mapping[str, str] | None = None) -> None:
        self._name = name
        self._log = log
        with log.open("wb") as stderr:
            self._child = subprocess.Popen(
                # Not with the script's directory on its path: there are a codecs.py and a cache.py in it.
                [sys.executable, "-P", str(HERE / name), *args],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=clean_environment({**QUIET, **(env or {})}),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._child.kill()
        self._child.communicate()

    def ask(self, timeout: float = 120, **command: Any) -> Any:
        """Raise BenchmarkFailed if the script ends, or says nothing in time."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        timer = threading.Timer(timeout, self._child.kill)
        timer.start()
        try:
            # Whoever cannot be written to has nothing to say either.
            with suppress(BrokenPipeError):
                self._child.stdin.write(json.dumps(command).encode() + b"\n")
                self._child.stdin.flush()
            line = self._child.stdout.readline()
        finally:
            timer.cancel()
            timer.join()
        if not line:
            raise BenchmarkFailed(f"{self._name} ended:\n{self._log.read_text(errors='replace')[-2000:]}")
        return json.loads(line)


def openvino_alone(task: Task, directory: Path) -> Script:
    """``in_process.py`` with the task's model and input."""
    return Script("in_process.py", str(task.xml), save_image(task, directory), log=directory / "in_process.log")


def save_image(task: Task, directory: Path) -> str:
    path = directory / f"{task.model}.npy"
    np.save(path, task.image)
    return str(path)


def decant(task: Task, directory: Path, *flags: str, with_grpc: bool = True) -> AbstractContextManager[Decant]:
    """Decant with the task's model from the disk, ready."""
    model = ("--model_name", task.model, "--model_path", task.disk)
    return decant_serve(directory, *model, *flags, env=QUIET, without_grpc=not with_grpc)


class Naive(Process):
    """``naive_handler.py`` with the task's model from the disk, listening."""

    def __init__(self, task: Task, directory: Path) -> None:
        self.port = free_port()
        env = clean_environment({**QUIET, "MODEL_URI": str(task.disk / "1"), "PORT": str(self.port)})
        super().__init__([sys.executable, HERE / "naive_handler.py"], directory / "naive.log", env=env)

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            # It listens when its model is loaded, not earlier.
            self.wait_until(lambda: accepts_connections(self.port), 60)
        except BaseException:
            self.kill()
            raise
        return self


def wait_until_idle(pid: int, timeout: float = 60) -> None:
    """Wait until a process and its children have nothing left to do; raise BenchmarkFailed if they never do."""
    deadline = time.monotonic() + timeout
    worked = processor_seconds(pid)
    while True:
        time.sleep(IDLE)
        before, worked = worked, processor_seconds(pid)
        # A tick of the clock is what a server may take for its own bookkeeping.
        if worked - before <= 0.011:
            return
        if time.monotonic() > deadline:
            raise BenchmarkFailed(f"process {pid} still works {timeout:g} s after its last request")


def processor_seconds(pid: int) -> float:
    """What a process and its living children have used."""
    return sum(map(own_seconds, family(pid)))


def own_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system


def family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess as exc:
        raise BenchmarkFailed(f"process {pid} ended while it was measured") from exc
