"""A client that we did not write, in a process of its own, which lives as long as a module of tests.

Such a client takes seconds to import, and pins what must not meet what we pin.
"""

from __future__ import annotations

import contextlib
import pickle
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tests.servers.processes import clean_environment

_LOOP = Path(__file__).with_name("client_process_script.py")
_PATIENCE = 50.0


class ClientError(Exception):
    """The client raised. ``kind`` is the name of its exception's class, ``status`` what it tells of the answer's, if
    it has been answered."""

    def __init__(self, kind: str, status: str, message: str) -> None:
        super().__init__(f"{kind} {status}: {message}")
        self.kind = kind
        self.status = status
        self.message = message


class ClientProcess:
    """Runs ``answer(call)`` of a script for each call; both are what can be pickled. Used as a context manager."""

    def __init__(self, script: Path, packages: Path, directory: Path) -> None:
        """
        Args:
            packages: all that the script sees beside the standard library.
            directory: for its log.
        """
        self._log = directory / f"{script.stem}.log"
        self._directory = directory
        self._argv: list[str | Path] = [sys.executable, "-I", "-S", _LOOP, packages, script]

    def __enter__(self) -> ClientProcess:
        self._directory.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            self._child = subprocess.Popen(
                self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=clean_environment()
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._child.kill()
        self._child.wait()
        for pipe in self._pipes:
            # It may be gone with half of what it was asked.
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def ask(self, **call: Any) -> Any:
        """Return what the script's ``answer`` does.

        Raises:
            ClientError: what it raised.
        """
        requests, answers = self._pipes
        pickle.dump(call, requests)
        requests.flush()
        if not select.select([answers], [], [], _PATIENCE)[0]:
            raise TimeoutError(f"no answer to {call} in {_PATIENCE:.0f} s: {self._tail()}")
        try:
            is_done, told = pickle.load(answers)
        except EOFError:
            raise RuntimeError(f"the client ended with {self._child.wait()}: {self._tail()}") from None
        if not is_done:
            raise ClientError(*told)
        return told

    @property
    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        return self._child.stdin, self._child.stdout

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]
