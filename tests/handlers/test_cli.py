"""The command, as typed: a child process, its output and its exit code."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import DIGITS
from tests.servers.decant import decant_serve
from tests.servers.fault_proxy import FaultProxy
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
        (["predict", "ftp://x/y", SEVEN], 64, "cannot read models from 'ftp://x/y'; want a path, file:///path, s3://"),
        (["pull", "s3://"], 64, "names no bucket"),
        (["pull", "s3://me:hush@minio:9000/b/m"], 64, "a s3:// URL has something before an @; want a path, file:///"),
        (["pull", "https://b/m?sig=hush"], 64, "cannot read models from 'https://b/m'; want"),
        (["pull", DIGITS / "1"], 1, "no directory named by a number"),
        (["pull", DIGITS, "--version", "2"], 1, "Specific(digits, 2)"),
        (["pull"], 64, "no model is given"),
        (["pull", "--model_config_file", "no.config"], 64, "cannot read no.config: No such file or directory"),
        (["cache"], 64, "the following arguments are required: COMMAND"),
        (["cache", "rm"], 64, "one of the arguments"),
        (["cache", "rm", "--cache_dir", "nowhere", "abc"], 64, "'abc' is the beginning of 0 digests in the cache"),
        (["cache", "verify", "--cache_dir", "nowhere", "abc"], 64, "'abc' is the beginning of 0 digests in the cache"),
        (["predict", "http://[/", SEVEN], 64, "cannot ask http://[/: "),
        (
            ["predict", "http://127.0.0.1:999999999999999999999999999999/v1/models/m", SEVEN],
            64,
            "cannot ask http://127.0.0.1:999",
        ),
        (["predict", "http://127.0.0.1:x/v1/models/m", SEVEN], 64, "cannot ask http://127.0.0.1:x/v1/models/m"),
        (
            ["predict", "http://127.0.0.1:1/v1/models/m", SEVEN, "--shape", "auto"],
            64,
            "shape is given, and the model is a server's",
        ),
        (["predict", "http://127.0.0.1:1/v1/models/\u00e9", SEVEN], 64, "cannot ask http://127.0.0.1:1/v1/models/"),
        (["inspect", "s3://[/"], 64, "model_path: "),
        (["inspect", DIGITS / "1"], 1, "no directory named by a number"),
        (["inspect", DIGITS, "--version", "2"], 1, "Specific(digits, 2)"),
        (["serve"], 64, "no model is given; want --model_path or DECANT_MODEL_PATH"),
        ([], 64, "no model is given"),
        (["--model_name", "m"], 64, "no model is given"),
        (
            ["--model_name", "m", "--model_path", DIGITS, "--trace_path", "t"],
            64,
            "unrecognized arguments: --trace_path t",
        ),
        (["--model_name", "m", "--model_path", DIGITS, "--log_path", DIGITS], 64, "log_path is"),
        (["serve", "--model_name", "m", "--model_path", DIGITS, "--port", "0", "--rest_port", "0"], 64, "both 0"),
        (["serve", "--model_name", "m", "--model_path", DIGITS, "--port", "8501"], 64, "cannot have the same values"),
        (["pour"], 64, "invalid choice: 'pour'"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_an_exit_code(arguments: list[str | Path], code: int, message: str) -> None:
    done = decant(*arguments)
    assert done.returncode == code
    assert done.stdout == b"" or arguments[0] == "inspect"
    (line,) = done.stderr.decode().splitlines()
    assert message in line
    assert "hush" not in line


def test_output_that_nobody_takes_is_no_traceback() -> None:
    argv = [sys.executable, "-m", "handlers.cli", "deploy", "targets"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, check=False, env=clean_environment())
    assert (done.returncode, done.stderr) == (1, b"decant: cannot write standard output: No space left on device\n")
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(argv, stdout=writer, stderr=subprocess.PIPE, check=False, env=clean_environment())
    finally:
        os.close(writer)
    # As of whoever pipes into `head`.
    assert (done.returncode, done.stderr) == (1, b"")


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


def test_inspect_and_predict_mean_the_same_by_version_0(tmp_path: Path) -> None:
    assert decant("inspect", DIGITS, "--version", "0").stdout == decant("inspect", DIGITS).stdout
    assert digits_in(decant("predict", DIGITS, SEVEN, "--version", "0").stdout) == [7]
    for version in ("0", "1"):
        (tmp_path / version).symlink_to(DIGITS / "1")
    assert b"signature serving_default of version 0" in decant("inspect", tmp_path, "--version", "0").stdout


def test_a_directory_may_have_any_name(tmp_path: Path) -> None:
    (tmp_path / "a:b").symlink_to(DIGITS)
    done = decant("inspect", tmp_path / "a:b")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"a:b at ")


def test_ports_do_not_matter_without_a_server() -> None:
    done = decant("predict", DIGITS, SEVEN, env={"PORT": "8500"})
    assert (done.returncode, done.stderr) == (0, b"")


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that reads one request and sends these bytes; yields the URL of a model."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        done = pool.submit(_answer_once, listener, answer)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1/models/m"
        done.result()


def _answer_once(listener: socket.socket, answer: bytes) -> None:
    listener.settimeout(30)
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as request:
        connection.settimeout(30)
        headers = http.client.parse_headers(request) if request.readline() else None
        assert headers is not None
        request.read(int(headers["Content-Length"]))
        connection.sendall(answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "cannot reach http://127.0.0.1"),
        (b"220 mail.example \x1b[2J\x9b\0\r\n", "predict: it speaks no HTTP; is the port gRPC's?"),
        (b"HTTP/1.1 500 \r\nContent-Length: 7\r\n\r\nno\x1b[2J\xff", "answered 500: no\ufffd[2J\ufffd"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", "did not send all of its answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{}", "cannot reach http://127.0.0.1"),
        (b"HTTP/1.1 502 Bad\r\nContent-Length: 11\r\n\r\n<p>\nno\n</p>", "answered 502: <p> no </p>"),
        (b"HTTP/1.1 502 Bad\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{}", "127.0.0.1"),
    ],
)
def test_what_is_no_server_of_ours_is_told_in_one_line(answer: bytes, message: str) -> None:
    with answering(answer) as url:
        done = decant("predict", url, SEVEN)
    assert done.returncode == 1
    assert done.stdout == b""
    (line,) = done.stderr.decode().splitlines()
    assert message in line
    assert line.isprintable()


def test_an_answer_does_not_command_the_terminal() -> None:
    with answering(b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n["\x1b[2J\xc2\x9b",\n1]') as url:
        done = decant("predict", url, SEVEN)
    assert (done.returncode, done.stdout) == (0, b'["\\u001b[2J\\u009b",\n1]\n')


SIGNALS_ITSELF = """
import os, sys

class Signal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"asyncio", "fastapi", "grpc", "numpy", "openvino", "uvicorn"}:
            os.kill(os.getpid(), int(sys.argv[1]))

sys.meta_path.insert(0, Signal())
from handlers.cli import main
main(sys.argv[2:])
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_while_the_server_is_still_imported_ends_it_without_a_word(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    """The signal comes with the first import that takes long, whichever that is."""
    flags = ["serve", "--model_name", "digits", "--model_path", str(tmp_path)]
    argv = [sys.executable, "-c", SIGNALS_ITSELF, str(int(number)), *flags]
    done = subprocess.run(argv, capture_output=True, timeout=60, check=False, env=clean_environment())
    assert (done.returncode, done.stderr) == (code, b"")


@pytest.mark.parametrize(("level", "is_logged"), [("INFO", False), ("TRACE", True)])
def test_a_malformed_request_is_no_line_in_the_log(level: str, is_logged: bool, tmp_path: Path) -> None:
    model: list[str | Path] = ["--model_name", "digits", "--model_path", DIGITS]
    with decant_serve(tmp_path, *model, "--log_level", level, without_grpc=True) as server:
        with socket.create_connection(("127.0.0.1", server.rest_port), timeout=30) as client:
            client.sendall(b"EHLO\r\n\r\n")
            while client.recv(4096):
                pass
        assert server.terminate() == 0
        assert ("Invalid HTTP request" in server.log()) is is_logged


def test_inspect_and_predict_read_from_a_bucket(s3: SeaweedFS, tmp_path: Path) -> None:
    env = s3.reader.env()
    shown = decant("inspect", "s3://models/digits", "--cache_dir", tmp_path / "cache", env=env)
    assert b"input  image: DT_FLOAT [-1, 8, 8]" in shown.stdout
    done = decant("predict", "s3://models/digits/", SEVEN, "--cache_dir", tmp_path / "cache", env=env)
    assert digits_in(done.stdout) == [7]


def test_pull_fills_a_cache_that_is_then_shown_checked_used_and_emptied(s3: SeaweedFS, tmp_path: Path) -> None:
    env = {**s3.reader.env(), "DECANT_CACHE_DIR": str(tmp_path / "cache")}
    size = sum(path.stat().st_size for path in (DIGITS / "1").iterdir())

    pulled = decant("pull", "s3://models/digits", env=env)
    assert (pulled.returncode, pulled.stderr) == (0, b"")
    (directory,) = (tmp_path / "cache").iterdir()
    assert pulled.stdout.decode().startswith(f"digits/1: {size} bytes in {directory}, fetched in ")
    assert decant("pull", "s3://models/digits", env=env).stdout.endswith(b"there already\n")

    listed, summary = decant("cache", "ls", env=env).stdout.decode().splitlines()
    digest, state, listed_size, _, title = listed.split(maxsplit=4)
    assert (directory.name[:12], "complete", str(size), "digits/1 from s3://models/digits") == (
        *(digest, state, listed_size, title),
    )
    assert summary.startswith(f"{size} bytes are used of ")

    # What is cached is used, by servers and by other commands: the bucket is only listed.
    with FaultProxy(s3.endpoint) as proxy:
        reader = replace(s3.reader, endpoint=proxy.url)
        done = decant("predict", "s3://models/digits", SEVEN, env={**env, **reader.env()})
        assert digits_in(done.stdout) == [7]
        assert proxy.count("GET", r"model\.(xml|bin)") == 0

    verified = decant("cache", "verify", env=env)
    assert (verified.returncode, verified.stdout.decode().split()[-1]) == (0, "ok")
    weights = directory / "model.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    verified = decant("cache", "verify", digest, env=env)
    assert (verified.returncode, verified.stdout.decode().rstrip().endswith("damaged: model.bin")) == (1, True)

    removed = decant("cache", "rm", digest[:5], env=env)
    assert (removed.returncode, removed.stdout.decode().split()[-1]) == (0, "removed")
    assert decant("cache", "ls", env=env).stdout.decode().startswith("0 bytes are used of ")


def test_what_a_server_uses_is_not_removed(s3: SeaweedFS, tmp_path: Path) -> None:
    flags = ["--model_name", "digits", "--model_path", "s3://models/digits", "--cache_dir", str(tmp_path / "cache")]
    with decant_serve(tmp_path, *flags, env=s3.reader.env(), without_grpc=True):
        done = decant("cache", "rm", "--all", "--cache_dir", tmp_path / "cache")
        assert (done.returncode, done.stdout.decode().rstrip().endswith("left, as it is in use")) == (1, True)
    done = decant("cache", "rm", "--all", "--cache_dir", tmp_path / "cache")
    assert (done.returncode, done.stdout.decode().rstrip().endswith("removed")) == (0, True)


def test_several_models_are_pulled_one_after_the_other(s3: SeaweedFS, tmp_path: Path) -> None:
    done = decant("pull", "s3://models/digits", DIGITS, "--cache_dir", tmp_path / "cache", env=s3.reader.env())
    fetched, in_place = done.stdout.decode().splitlines()
    assert fetched.startswith("digits/1: ")
    assert in_place.endswith(f" in {DIGITS}/1, read in place")


def test_all_models_of_a_file_are_pulled_with_the_versions_that_have_labels(s3: SeaweedFS, tmp_path: Path) -> None:
    for version in ("1", "2", "3"):
        s3.put_tree("models", f"labelled/{version}", DIGITS / "1")
    (tmp_path / "models.config").write_text(
        "model_config_list {"
        "  config { name: 'one' base_path: 's3://models/digits' }"
        "  config { name: 'two' base_path: 's3://models/labelled'"
        # The newest too, which is fetched once all the same.
        "    version_labels { key: 'stable' value: 1 } version_labels { key: 'canary' value: 3 } }"
        "}"
    )
    flags: list[str | Path] = ["--model_config_file", tmp_path / "models.config", "--cache_dir", tmp_path / "cache"]
    done = decant("pull", *flags, env=s3.reader.env())
    assert (done.returncode, done.stderr) == (0, b"")
    assert [line.partition(":")[0] for line in done.stdout.decode().splitlines()] == ["one/1", "two/3", "two/1"]


def test_a_person_sees_how_far_a_download_is(s3: SeaweedFS, tmp_path: Path) -> None:
    """On a terminal there is a bar, which is gone when the download is done; elsewhere there is none."""
    theirs, ours = pty.openpty()
    termios.tcsetwinsize(ours, (24, 80))
    argv = [sys.executable, "-m", "handlers.cli", "pull", "s3://models/digits", "--cache_dir", str(tmp_path / "cache")]
    env = clean_environment(s3.reader.env())
    with (
        os.fdopen(theirs, "rb", buffering=0) as screen,
        subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=ours, env=env) as process,
    ):
        os.close(ours)
        shown = b""
        # The end of a terminal is an error.
        with contextlib.suppress(OSError):
            while piece := screen.read(4096):
                shown += piece
    assert process.returncode == 0
    assert shown.startswith(b"\rdigits/1:   0%|")
    assert shown.rpartition(b"\r")[0].endswith(b" ")


def test_the_version_is_ours_and_openvinos() -> None:
    done = decant("--version")
    ours, openvinos = done.stdout.decode().splitlines()
    assert ours.startswith("Decant 0.")
    assert openvinos.startswith("OpenVINO backend 20")


def test_help_lists_the_commands() -> None:
    done = decant("--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in (b"serve", b"predict", b"inspect"))
