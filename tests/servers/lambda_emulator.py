"""AWS's own runtime interface emulator, with AWS's own Python client in it, running a handler of ours."""

from __future__ import annotations

import contextlib
import http.client
import json
import platform
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers import tool
from tests.servers.processes import Process, accepts_connections, clean_environment, free_port

_INVOCATIONS = "/2015-03-31/functions/function/invocations"
_ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True)
class LambdaEmulator:
    """A running emulator. The runtime starts with the first invocation, so that one includes the init phase."""

    process: Process
    port: int

    def invoke(self, event: Mapping[str, Any], timeout: float = 60) -> dict[str, Any]:
        """Return what the function answered, or its error as Lambda tells it: errorType, errorMessage.

        The emulator takes one invocation at a time, as one Lambda environment does.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        with contextlib.closing(connection):
            connection.request("POST", _INVOCATIONS, json.dumps(event).encode())
            answer = connection.getresponse().read()
        try:
            result: dict[str, Any] = json.loads(answer)
        except ValueError:
            # Of a time-out it tells in plain text.
            result = {"errorMessage": answer.decode(errors="replace")}
        return result

    def log(self) -> str:
        """What the emulator and the function wrote."""
        return self.process.log()


@contextlib.contextmanager
def lambda_emulator(
    directory: Path,
    handler: str = "handlers.aws_lambda.handler",
    env: Mapping[str, str] | None = None,
    function_timeout: int = 30,
    memory: int = 2048,
    timeout: float = 20,
    program: Sequence[str | Path] = (sys.executable, "-m", "awslambdaric"),
) -> Iterator[LambdaEmulator]:
    """Run ``handler`` in an environment with ``env`` and nothing of the developer's own, from ``directory``.

    ``function_timeout`` is in seconds, ``memory`` in MiB as Lambda counts it: the function is told, not held to it.
    ``program`` is the runtime, to which the handler's name is given.
    """
    port, runtime_port = free_port(), free_port()
    argv: list[str | Path] = [
        _emulator(),
        "--log-level",
        "error",
        "--runtime-api-address",
        f"127.0.0.1:{runtime_port}",
        "--runtime-interface-emulator-address",
        f"127.0.0.1:{port}",
        *program,
        handler,
    ]
    function = {
        "AWS_LAMBDA_FUNCTION_TIMEOUT": str(function_timeout),
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory),
    }
    whole_env = clean_environment(dict(env or {}) | function)
    with Process(argv, directory / "lambda.log", env=whole_env, cwd=directory) as process:
        process.wait_until(lambda: accepts_connections(port), timeout)
        yield LambdaEmulator(process, port)


def _emulator() -> Path:
    machine = _ARCHITECTURES[platform.machine().lower()]
    binary = tool(f"servers/samcli/local/rapid/aws-lambda-rie-{machine}")
    mode = binary.stat().st_mode
    if not mode & stat.S_IXUSR:
        # An installer may leave the bit out, since the package ships it as data.
        binary.chmod(mode | stat.S_IXUSR)
    return binary
