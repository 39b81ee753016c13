"""What is logged, where, and in which form: in this process, by a real server, and under Lambda's runtime client."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handlers.logs import JsonFormatter, configure_logging
from handlers.settings import SettingsError, read_settings
from tests.conftest import DIGITS
from tests.servers.decant import decant_serve
from tests.servers.lambda_emulator import lambda_emulator
from tests.servers.lambda_events import function_url

MODEL: tuple[str | Path, ...] = ("--model_name", "digits", "--model_path", DIGITS)
FIELDS = {"time", "level", "severity", "logger", "message"}


def objects(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines()]


@contextlib.contextmanager
def configured(handler: logging.Handler | None = None, **flags: str) -> Iterator[None]:
    """Logging as a process has it after its start, in the one handler that a runtime has set up or in ours."""
    root = logging.getLogger()
    # Within the test, as pytest adds handlers of its own to each.
    before = root.handlers, root.level, sys.excepthook, threading.excepthook
    others = [logging.getLogger(name) for name in ("botocore", "boto3", "urllib3", "PIL")]
    levels = [logger.level for logger in others]
    root.handlers = [] if handler is None else [handler]
    try:
        configure_logging(read_settings(flags))
        yield
    finally:
        for one in root.handlers:
            one.close()
        root.handlers, root.level, sys.excepthook, threading.excepthook = before
        root.setLevel(before[1])
        for logger, level in zip(others, levels, strict=True):
            logger.setLevel(level)


def test_a_line_is_one_object_whatever_is_in_it() -> None:
    record = logging.LogRecord("a.b", logging.WARNING, "f.py", 1, "%s of \ud800\n\x00 Größe", ("two\r\nlines",), None)
    record.created, record.msecs = 1.9996, 999.6
    line = JsonFormatter().format(record)
    assert line.isprintable()
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:01.999Z",
        "level": "WARNING",
        "severity": "WARNING",
        "logger": "a.b",
        "message": "two\r\nlines of \ud800\n\x00 Größe",
    }


def test_a_traceback_is_one_text_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    with configured(log_format="json"):
        try:
            raise ValueError("a\nb")
        except ValueError:
            logging.getLogger("here").exception("failed")
    (line,) = objects(capsys.readouterr().err)
    assert line.keys() == FIELDS | {"traceback"}
    assert (line["level"], line["message"]) == ("ERROR", "failed")
    assert line["traceback"].startswith("Traceback (most recent call last):\n")
    assert line["traceback"].endswith("\nValueError: a\nb")


@pytest.mark.parametrize(
    ("form", "variable", "is_json"),
    [
        ("auto", "", False),
        ("auto", "K_SERVICE", True),
        ("auto", "CONTAINER_APP_NAME", True),
        ("auto", "AWS_LAMBDA_FUNCTION_NAME", True),
        ("text", "K_SERVICE", False),
        ("json", "", True),
    ],
)
def test_lines_are_json_where_a_platform_reads_them_or_if_a_flag_says_so(
    form: str,
    variable: str,
    is_json: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if variable:
        monkeypatch.setenv(variable, "digits")
    with configured(log_format=form):
        logging.getLogger("here").info("hello %d", 1)
        logging.getLogger("here").debug("unheard")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(" INFO here: hello 1") is not is_json
    assert not is_json or json.loads(line)["message"] == "hello 1"


@pytest.mark.parametrize(
    ("level", "heard"),
    [
        ("DEBUG", ["botocore 10", "botocore 30", "PIL 30", "here 10", "here 30"]),
        ("INFO", ["botocore 30", "PIL 30", "here 30"]),
        ("ERROR", []),
    ],
)
def test_libraries_that_talk_much_are_heard_less(
    level: str, heard: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with configured(log_level=level):
        for name in ("botocore", "PIL", "here"):
            for number in (logging.DEBUG, logging.WARNING):
                logging.getLogger(name).log(number, "%s %d", name, number)
    assert [line.partition(": ")[2] for line in capsys.readouterr().err.splitlines()] == heard


def test_what_nobody_catches_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(error: type[BaseException]) -> None:
        raise error("no\nway")

    with configured(log_format="json"):
        for error in (ValueError, SystemExit):
            thread = threading.Thread(target=fail, args=(error,))
            thread.start()
            thread.join()
        try:
            fail(KeyError)
        except KeyError as exc:
            sys.excepthook(KeyError, exc, exc.__traceback__)
    thread_line, main_line = objects(capsys.readouterr().err)
    assert (thread_line["message"], main_line["message"]) == ("uncaught ValueError", "uncaught KeyError")
    assert thread_line["traceback"].endswith("ValueError: no\nway")


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_file_has_all_that_standard_error_has(form: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "made" / "decant.log"
    with configured(log_format=form, log_path=str(path)):
        logging.getLogger("here").info("one")
        # Whoever keeps logs small moves the file away.
        path.rename(tmp_path / "old.log")
        logging.getLogger("here").warning("two")
    lines = [*(tmp_path / "old.log").read_text().splitlines(), *path.read_text().splitlines()]
    assert lines == capsys.readouterr().err.splitlines()
    assert len(lines) == 2


def test_logging_that_is_configured_again_is_as_the_last_settings_say(tmp_path: Path) -> None:
    path = tmp_path / "decant.log"
    with configured(log_level="ERROR", log_path=str(tmp_path / "other.log")):
        for _ in range(3):
            configure_logging(read_settings({"log_level": "DEBUG", "log_path": str(path)}))
        logging.getLogger("botocore").debug("one")
    assert [line.partition("botocore: ")[2] for line in path.read_text().splitlines()] == ["one"]
    assert not (tmp_path / "other.log").read_text()


def test_a_file_that_cannot_be_written_is_an_error_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "log"):
        message = f"log_path is '{path}'; want a file that can be written: "
        with pytest.raises(SettingsError, match=message), configured(log_path=str(path)):
            pass


class Theirs(logging.Handler):
    """As Lambda's runtime client has it: it knows the request, and does not end lines."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("theirs: %(message)s"))
        self.written = ""

    def emit(self, record: logging.LogRecord) -> None:
        record.aws_request_id = "42"
        self.written += self.format(record)


def test_the_handler_of_a_runtime_is_joined_by_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    theirs = Theirs()
    with configured(theirs, log_format="json"):
        logging.getLogger("here").info("hello")
    (line,) = objects(theirs.written)
    assert theirs.written.endswith("}\n")
    assert (line["message"], line["requestId"]) == ("hello", "42")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("form", "lambdas"), [("text", ""), ("auto", "JSON"), ("json", "JSON")])
def test_what_a_runtime_writes_well_is_left_to_it(form: str, lambdas: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "digits")
    monkeypatch.setenv("AWS_LAMBDA_LOG_FORMAT", lambdas)
    theirs = Theirs()
    with configured(theirs, log_format=form):
        logging.getLogger("here").info("hello")
    assert theirs.written == "theirs: hello"


def test_all_lines_of_a_server_on_cloud_run_are_objects(tmp_path: Path) -> None:
    with decant_serve(tmp_path, *MODEL, env={"K_SERVICE": "digits"}, without_grpc=True) as server:
        server.process.wait_until(lambda: "ready: digits/1" in server.log(), 20)
        assert server.terminate() == 0
        lines = objects(server.log())
    assert all(line.keys() == FIELDS for line in lines)
    assert lines[-1]["message"] == "stopped"


def test_a_server_appends_to_the_file_that_is_named_and_says_what_has_no_effect(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "server.log"
    env = {"LOG_PATH": str(path), "PLUGIN_DIR": "/opt/plugins"}
    flags = ["--custom_node_resources_cleaner_interval_seconds", "5", "--workers", "2"]
    with decant_serve(tmp_path, *MODEL, *flags, env=env, without_grpc=True) as server:
        assert server.terminate() == 0
        assert sorted(path.read_text().splitlines()) == sorted(server.log().splitlines())
        # Once, and not by each worker.
        assert server.log().count("has no effect") == 2


def test_a_function_logs_each_line_once_as_an_object_with_the_requests_id(tmp_path: Path) -> None:
    """Through Lambda's own runtime client, which has its handler before ours would come."""
    models = [{"config": {"name": name, "base_path": str(DIGITS)}} for name in ("a", "b")]
    (tmp_path / "models.json").write_text(json.dumps({"model_config_list": models}))
    env = {"DECANT_MODEL_CONFIG_FILE": str(tmp_path / "models.json"), "DECANT_CACHE_DIR": str(tmp_path / "cache")}
    seven = (DIGITS / "seven.json").read_bytes()
    with lambda_emulator(tmp_path, env=env) as function:
        assert function.invoke(function_url("POST", "/v1/models/a:predict", {}, {}, seven))["statusCode"] == 200
        function.process.wait_until(lambda: "REPORT " in function.log(), 20)
        log = function.log().rpartition("REPORT ")[0].splitlines()
    (request_id,) = {line.split()[2] for line in log if line.startswith("START ")}
    # As often as the emulator repeats what it is told.
    times = len([line for line in log if line.startswith("START ")])
    loaded = [json.loads(line) for line in log if "loaded a/1 in" in line]
    assert [(line["level"], line["requestId"]) for line in loaded] == [("INFO", request_id)] * times
    assert loaded[0].keys() == FIELDS | {"requestId"}
