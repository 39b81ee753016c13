"""The command, as typed: a child process, its output and its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import DIGITS
from tests.servers.decant import decant_serve
from tests.servers.processes import clean_environment
from tests.servers.seaweedfs import SeaweedFS

SEVEN = DIGITS / "seven.json"


def decant(
    *arguments: str | Path, stdin: bytes = b"", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    argv = [sys.executable, "-m", "handlers.cli", *map(str, arguments)]
    return subprocess.run(argv, input=stdin, capture_output=True, timeout=60, check=False, env=clean_environment(env))


def digits_in(answer: bytes) -> list[int]:
    return [prediction["digit"] for prediction in json.loads(answer)["predictions"]]


def test_predict_reads_the_digit() -> None:
    done = decant("predict", DIGITS, SEVEN)
    assert (done.returncode, done.stderr) == (0, b"")
    assert digits_in(done.stdout) == [7]


def test_predict_takes_a_request_from_standard_input_and_a_version() -> None:
    done = decant("predict", DIGITS, "-", "--version", "1", stdin=(DIGITS / "three-and-eight.json").read_bytes())
    assert digits_in(done.stdout) == [3, 8]


def test_predict_asks_a_server(tmp_path: Path) -> None:
    with decant_serve(tmp_path, "--model_name", "digits", "--model_path", DIGITS, without_grpc=True) as server:
        url = f"{server.rest_url}/v1/models/digits"
        assert digits_in(decant("predict", url, SEVEN).stdout) == [7]
        assert digits_in(decant("predict", url, SEVEN, "--version", "1").stdout) == [7]
        done = decant("predict", url, SEVEN, "--version", "9")
        assert done.returncode == 1
        assert b"answered 404" in done.stderr
        assert b"Specific(digits, 9)" in done.stderr
    done = decant("predict", url, SEVEN)
    assert done.returncode == 1
    assert b"cannot reach http://127.0.0.1" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["predict", "nowhere", SEVEN], 1, "nowhere: No such file or directory"),
        (["predict", DIGITS, "no.json"], 64, "cannot read the request no.json: No such file or directory"),
        (["predict", DIGITS, SEVEN, "--version", "2"], 1, "Specific(digits, 2)"),
        (["predict", DIGITS, DIGITS / "seven.png"], 1, "JSON Parse error"),
        (["predict", "gs://x/y", SEVEN], 64, "cannot read models from 'gs://x/y'"),
        (["inspect", DIGITS / "1"], 1, "no directory named by a number"),
        (["serve"], 64, "no model_name is given; want --model_name or DECANT_MODEL_NAME"),
        ([], 64, "no model_name is given"),
        (["--model_name", "m"], 64, "no model_path is given"),
        (["--model_name", "m", "--model_path", DIGITS, "--nireq", "2"], 64, "unrecognized arguments: --nireq 2"),
        (["serve", "--model_name", "m", "--model_path", DIGITS, "--port", "0", "--rest_port", "0"], 64, "both 0"),
        (["pour"], 64, "invalid choice: 'pour'"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_an_exit_code(arguments: list[str | Path], code: int, message: str) -> None:
    done = decant(*arguments)
    assert done.returncode == code
    assert done.stdout == b""
    (line,) = done.stderr.decode().splitlines()
    assert message in line


def test_inspect_shows_versions_sizes_and_the_signature() -> None:
    done = decant("inspect", DIGITS)
    size = sum(path.stat().st_size for path in (DIGITS / "1").iterdir())
    lines = [line.split(", digest")[0] for line in done.stdout.decode().splitlines()]
    assert lines == [
        f"digits at {DIGITS}",
        f"  version 1: {size} bytes in 2 files",
        "  signature serving_default of version 1",
        "    input  image: DT_FLOAT [-1, 8, 8]",
        "    output digit: DT_INT64 [-1]",
        "    output probabilities: DT_FLOAT [-1, 10]",
    ]


def test_inspect_and_predict_read_from_a_bucket(s3: SeaweedFS, tmp_path: Path) -> None:
    env = s3.reader.env()
    shown = decant("inspect", "s3://models/digits", "--cache_dir", tmp_path / "cache", env=env)
    assert b"input  image: DT_FLOAT [-1, 8, 8]" in shown.stdout
    done = decant("predict", "s3://models/digits/", SEVEN, "--cache_dir", tmp_path / "cache", env=env)
    assert digits_in(done.stdout) == [7]


def test_the_version_is_ours_and_openvinos() -> None:
    done = decant("--version")
    ours, openvinos = done.stdout.decode().splitlines()
    assert ours.startswith("Decant 0.")
    assert openvinos.startswith("OpenVINO backend 20")


def test_help_lists_the_commands() -> None:
    done = decant("--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in (b"serve", b"predict", b"inspect"))
