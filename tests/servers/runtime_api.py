"""Lambda's Runtime API, to which the runtime client in a function's process talks; with SnapStart's part of it.

AWS's emulator has no SnapStart. This one does not copy a process, as a snapshot would: the process that has said that
it is ready for one waits, as long as the test likes, and goes on as if it had been restored. What has become of the
world meanwhile is the test's business.
https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html, snapstart-runtime-hooks-custom.html
"""

from __future__ import annotations

import contextlib
import json
import queue
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.servers.processes import Process, clean_environment

_VERSION = "/2018-06-01/runtime"
_ERROR_TYPE = "Lambda-Runtime-Function-Error-Type"
_PATIENCE = 30.0
_FUNCTION = "arn:aws:lambda:us-east-1:123456789012:function:decant"


@dataclass(frozen=True)
class Failure:
    """What a runtime has posted as an error."""

    kind: str
    """Of the header, such as Runtime.BeforeSnapshotError."""
    error: Mapping[str, Any]
    """errorType, errorMessage, stackTrace."""


@dataclass
class RuntimeApi:
    """A running server. One environment talks to it."""

    frozen: threading.Event = field(default_factory=threading.Event)
    """Set when the runtime is ready for its snapshot."""
    init_errors: list[Failure] = field(default_factory=list)
    restore_errors: list[Failure] = field(default_factory=list)
    port: int = 0
    timeout: float = _PATIENCE
    """Seconds that an invocation may take, as the function is told."""
    _thawed: threading.Event = field(default_factory=threading.Event)
    _is_closing: threading.Event = field(default_factory=threading.Event)
    _events: queue.SimpleQueue[tuple[str, bytes]] = field(default_factory=queue.SimpleQueue)
    _results: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)
    _invocations: int = 0

    def restore(self) -> None:
        """Let the runtime go on, as a process that was restored from the snapshot does."""
        self._thawed.set()

    def invoke(self, event: Any) -> Any:
        """Return what the function answers to an event, or its error: errorType, errorMessage."""
        self._invocations += 1
        self._events.put((f"request-{self._invocations}", json.dumps(event).encode()))
        return self._results.get(timeout=_PATIENCE)

    def next(self) -> tuple[str, bytes] | None:
        """Return the next event and its id, once there is one; None when there will be none."""
        return self._first(self._events)

    def answered(self, result: Any) -> None:
        self._results.put(result)

    def wait_for_restore(self) -> None:
        self.frozen.set()
        while not (self._thawed.wait(0.02) or self._is_closing.is_set()):
            pass

    def close(self) -> None:
        self._is_closing.set()

    def _first(self, events: queue.SimpleQueue[tuple[str, bytes]]) -> tuple[str, bytes] | None:
        while not self._is_closing.is_set():
            with contextlib.suppress(queue.Empty):
                return events.get(timeout=0.02)
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: RuntimeApi

    def do_GET(self) -> None:
        if self.path == f"{_VERSION}/restore/next":
            self.api.wait_for_restore()
            self._answer(200)
        elif self.path == f"{_VERSION}/invocation/next":
            self._answer_next()
        else:
            self._answer(404)

    def do_POST(self) -> None:
        body = self._body()
        result = json.loads(body)
        match self.path.removeprefix(_VERSION).strip("/").split("/"):
            case ["init", "error"]:
                self.api.init_errors.append(Failure(self.headers[_ERROR_TYPE], result))
            case ["restore", "error"]:
                self.api.restore_errors.append(Failure(self.headers[_ERROR_TYPE], result))
            case ["invocation", _, "response" | "error"]:
                self.api.answered(result)
            case _:
                self._answer(404)
                return
        self._answer(202)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer_next(self) -> None:
        event = self.api.next()
        if event is None:
            self.close_connection = True
            return
        headers = {
            "Lambda-Runtime-Aws-Request-Id": event[0],
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + self.api.timeout) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": _FUNCTION,
            "Content-Type": "application/json",
        }
        self._answer(200, event[1], headers)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        # The runtime is killed while it waits for an event.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextlib.contextmanager
def runtime_api() -> Iterator[RuntimeApi]:
    api = RuntimeApi()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": api}))
    api.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="runtime API")
    thread.start()
    try:
        yield api
    finally:
        api.close()
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def environment(
    directory: Path, env: Mapping[str, str], handler: str = "handlers.aws_lambda.handler"
) -> Iterator[tuple[RuntimeApi, Process]]:
    """Run AWS's client with ``handler`` as in an environment of a function; ``env`` says how it is started."""
    argv = [sys.executable, "-m", "awslambdaric", handler]
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(runtime_api())
        own = {
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{api.port}",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_FUNCTION_NAME": "decant",
            "AWS_LAMBDA_FUNCTION_VERSION": "1",
        }
        whole_env = clean_environment(own | dict(env))
        process = stack.enter_context(Process(argv, directory / "lambda.log", env=whole_env, cwd=directory))
        yield api, process
