"""The image's entry point, run as a process; what it would start is replaced by programs that say how they were."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.servers import ROOT

ENTRYPOINT = ROOT / "infra" / "entrypoint.sh"

# One line each: the process, the program, then the arguments as they were separated.
REPORT = '#!/bin/sh\nprintf "%s\\n" "$$" "${0##*/}" "$@"\nexit 7\n'


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("decant", "python"):
        program = directory / name
        program.write_text(REPORT)
        program.chmod(0o755)
    return directory


def run(programs: Path, arguments: Sequence[str], **environ: str) -> tuple[int, list[str], str]:
    """Return the exit code, what was started and with what, and standard error. It must be the same process."""
    command = [str(ENTRYPOINT), *arguments]
    environ = {"PATH": str(programs), **environ}
    with subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=programs.parent
    ) as child:
        output, errors = child.communicate(timeout=20)
    pid, *started = output.splitlines() or [str(child.pid)]
    assert pid == str(child.pid), "signals would reach a shell and not the program"
    return child.returncode, started, errors


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--model_name", "x", "--model_path", "s3://bucket/a model"],
        ["predict", "/models/digits", "-"],
        ["serve", "--port", "0"],
    ],
)
def test_outside_lambda_everything_goes_to_decant(programs: Path, arguments: list[str]) -> None:
    assert run(programs, arguments) == (7, ["decant", *arguments], "")


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (
            ["/ie-serving-py/start_server.sh", "ie_serving", "model", "--port", "9000"],
            ["ie_serving", "model", "--port", "9000"],
        ),
        (["/ovms/bin/ovms", "--port", "9000"], ["ovms", "--port", "9000"]),
        (["/ovms/bin/ovms"], ["ovms"]),
    ],
)
def test_commands_of_other_images_are_understood(programs: Path, arguments: list[str], command: list[str]) -> None:
    assert run(programs, arguments) == (7, ["decant", *command], "")


def test_an_empty_variable_is_not_lambda(programs: Path) -> None:
    assert run(programs, ["serve"], AWS_LAMBDA_RUNTIME_API="") == (7, ["decant", "serve"], "")


def test_in_lambda_the_runtime_client_runs_our_handler(programs: Path) -> None:
    started = ["python", "-m", "awslambdaric", "handlers.aws_lambda.handler"]
    assert run(programs, [], AWS_LAMBDA_RUNTIME_API="127.0.0.1:9001") == (7, started, "")


def test_in_lambda_the_command_may_name_another_handler(programs: Path) -> None:
    started = ["python", "-m", "awslambdaric", "mine.handler"]
    assert run(programs, ["mine.handler"], AWS_LAMBDA_RUNTIME_API="127.0.0.1:9001") == (7, started, "")


def test_flags_in_lambda_are_refused_rather_than_lost(programs: Path) -> None:
    code, started, errors = run(programs, ["--model_name", "x"], AWS_LAMBDA_RUNTIME_API="127.0.0.1:9001")
    assert (code, started) == (64, [])
    assert "DECANT_MODEL_NAME" in errors
    assert "--model_name x" in errors
