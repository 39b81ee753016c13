"""Child processes: each leads a session of its own, writes to a log file, and is killed with all it started."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

POLL = 0.02
"""Seconds between two looks at something that sends no event."""

_random = random.SystemRandom()  # hypothesis seeds the shared generator, which would repeat ports
_given_ports: set[int] = set()


class ProcessFailed(RuntimeError):
    """A process ended before it was ready, or did not do what was asked in time."""

    def __init__(self, what: str, exit_code: int | None, log: str) -> None:
        tail = "\n".join(log.splitlines()[-40:])
        super().__init__(f"{what}; its log ends with:\n{tail}")
        self.exit_code = exit_code
        self.log = log


class Process:
    """A running child. Leaving the ``with`` block kills it and whatever it started."""

    def __init__(
        self, argv: Sequence[str | Path], log: Path, *, env: Mapping[str, str], cwd: Path | None = None
    ) -> None:
        self.name = Path(argv[0]).name
        self.log_path = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self._child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, or minus the signal that ended it; None while it runs."""
        if self._child.returncode is not None:
            return self._child.returncode
        # WNOWAIT leaves a zombie behind, so the session's number stays ours until kill() has used it.
        ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_until(self, ready: Callable[[], bool], timeout: float) -> None:
        """Return once ``ready()`` is true; raise ProcessFailed when the process ends first or time runs out."""
        deadline = time.monotonic() + timeout
        while not ready():
            if self.exit_code is not None:
                raise self._failed(f"ended with exit code {self.exit_code} before it was ready")
            if time.monotonic() > deadline:
                raise self._failed(f"was not ready after {timeout:g} s")
            time.sleep(POLL)

    def signal(self, number: signal.Signals) -> None:
        self._child.send_signal(number)

    def wait(self, timeout: float = 20) -> int:
        """Wait for the process to end by itself and return its exit code."""
        deadline = time.monotonic() + timeout
        while (code := self.exit_code) is None:
            if time.monotonic() > deadline:
                raise self._failed(f"was still running after {timeout:g} s")
            time.sleep(POLL)
        return code

    def terminate(self, timeout: float = 20) -> int:
        """Ask it to stop, as a platform does, and return its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self, timeout: float = 10) -> None:
        """Kill every process of the session. A group would not do: AWS's emulator gives the runtime its own."""
        deadline = time.monotonic() + timeout
        while self._child.returncode is None and (members := _living_members(self.pid)):
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise self._failed(f"left processes {members} that cannot be killed")
            time.sleep(POLL / 10)
        self._child.wait(timeout)

    def _failed(self, what: str) -> ProcessFailed:
        return ProcessFailed(f"{self.name} (process {self.pid}) {what}", self.exit_code, self.log())


def free_port(also: int = 0) -> int:
    """Return a port of 127.0.0.1 that is free, and so is the port ``also`` above it.

    It lies below the range that the kernel hands to outgoing connections (32768 and up by default), so that none of
    them takes it before the server binds it.
    """
    while True:
        port = _random.randrange(10_000, 22_000)
        wanted = {port, port + also}
        if not wanted & _given_ports and all(map(_is_free, wanted)):
            _given_ports.update(wanted)
            return port


def accepts_connections(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without the developer's clouds, proxies and Decant settings, plus ``extra``."""
    kept = {name: value for name, value in os.environ.items() if not _is_personal(name)}
    return kept | dict(extra or {})


def _is_personal(name: str) -> bool:
    prefixes = ("AWS_", "S3_", "DECANT_", "LAMBDA_", "KNATIVE_", "K_")
    clouds = ("AZURE_", "IDENTITY_", "MSI_", "GOOGLE_", "GCLOUD_", "CLOUDSDK_", "STORAGE_EMULATOR_HOST")
    return name.startswith(prefixes + clouds) or name == "PORT" or name.lower().endswith("_proxy")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _living_members(session: int) -> list[int]:
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if _is_living_member(entry, session)]


def _is_living_member(entry: Path, session: int) -> bool:
    try:
        # proc(5): "pid (name) state ppid group session ..."; the name may hold spaces and brackets.
        state, _, _, owner = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
    except OSError:
        return False  # it ended while we looked
    return int(owner) == session and state not in "ZX"
