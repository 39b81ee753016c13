"""``decant doctor``, as an operator runs it: in bad places, and with stores that refuse or hang."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import DIGITS, ROOT
from tests.servers.processes import clean_environment, free_port
from tests.servers.seaweedfs import SeaweedFS

DOCTOR = (sys.executable, "-m", "handlers.cli", "doctor")
NEEDS_ROOT = "needs root, who may have mounts of its own: run it in a container, as CI does"


class Told(NamedTuple):
    code: int
    text: str
    seconds: float

    @property
    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.text)
        return report

    def levels(self) -> dict[str, str]:
        """The level of each id, a problem before a warning."""
        found: dict[str, str] = {}
        for level in ("ok", "warning", "problem"):
            found |= {each["id"]: level for each in self.report["findings"] if each["level"] == level}
        return found


def doctor(
    directory: Path, *flags: str | Path, env: Mapping[str, str] | None = None, before: Sequence[str] = ()
) -> Told:
    argv = [*before, *DOCTOR, "--cache_dir", directory / "cache", "--port", str(free_port()), *flags]
    rest = {"DECANT_REST_PORT": str(free_port()), "PYTHONPATH": str(ROOT), **(env or {})}
    began = time.monotonic()
    done = subprocess.run(
        argv, env=clean_environment(rest), cwd=directory, capture_output=True, timeout=50, check=False, text=True
    )
    # Of ours there is none. Where nothing can be written, what measures coverage has one.
    assert str(ROOT / "handlers") not in done.stderr, done.stderr
    return Told(done.returncode, done.stdout, time.monotonic() - began)


def test_where_all_is_well_each_finding_is_a_line_and_the_exit_code_is_0(tmp_path: Path) -> None:
    told = doctor(tmp_path, "--model_name", "digits", "--model_path", DIGITS)
    assert told.code == 0
    *findings, total = told.text.splitlines()
    assert all(line.startswith(("ok ", "warning ")) and line.endswith("]") for line in findings), told.text
    assert "model digits: listing" in told.text
    assert "0 problems" in total
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_that_refuses_is_a_problem_and_no_secret_is_printed(s3: SeaweedFS, tmp_path: Path) -> None:
    s3.put_tree("others", "digits", DIGITS)
    config = tmp_path / "config.json"
    models = [("mine", "s3://models/digits"), ("theirs", "s3://others/digits"), ("broken", "ftp://x")]
    entries = [{"config": {"name": name, "base_path": path}} for name, path in models]
    config.write_text(json.dumps({"model_config_list": entries}))
    told = doctor(tmp_path, "--json", "--config_path", config, env=s3.reader.env())
    assert (told.code, told.report["level"]) == (1, "problem")
    problems = {each["title"]: each for each in told.report["findings"] if each["level"] == "problem"}
    assert problems.keys() >= {"model theirs: listing", "model broken"}
    assert "model mine: listing" not in problems
    assert "s3:ListBucket" in problems["model theirs: listing"]["advice"]
    levels = told.levels()
    assert (levels["endpoint"], levels["clock.skew"], levels["credentials"]) == ("ok", "ok", "ok")
    for secret in (s3.reader.secret_key, s3.reader.access_key):
        assert secret not in told.text


def test_a_store_that_accepts_and_never_answers_does_not_hang_it(tmp_path: Path) -> None:
    env = {
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "hush-hush-hush",
        "AWS_REGION": "eu-west-1",
    }
    with socket.create_server(("127.0.0.1", 0), backlog=50) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        flags = ("--model_path", "s3://models/digits", "--s3_endpoint", endpoint)
        told = doctor(tmp_path, "--json", "--timeout", "3", *flags, env=env)
    assert told.seconds < 15
    assert told.code == 1
    levels = told.levels()
    assert levels["model.list.unanswered"] == "problem"
    assert {"openvino", "platform", "tmp"} <= levels.keys()
    assert "hush" not in told.text


def test_in_a_bad_place_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        env = {
            "DECANT_REST_PROT": "1",
            "DECANT_WORKERS": "many",
            "HTTP_PROXY": "http://me:hushhush@proxy.invalid:3128",
            "DECANT_REST_PORT": str(other.getsockname()[1]),
            "K_SERVICE": "decant",
            "PORT": "8080",
            "HOME": "/nowhere",
            "TMPDIR": "/proc",
        }
        limited = ("sh", "-c", 'ulimit -n 200; exec "$@"', "sh")
        flags = ("--json", "--shutdown_timeout", "60", "--model_path", "/no/such/model", "--target_device", "NPU")
        told = doctor(tmp_path, *flags, env=env, before=limited)
    levels = told.levels()
    wanted = {
        "settings.value": "problem",
        "variables.unknown": "warning",
        "platform.drain": "warning",
        "platform.port": "problem",
        "ports": "problem",
        "process.files": "warning",
        "tmp": "warning",
        "openvino.device": "problem",
        "model.list": "problem",
        "home": "ok",
    }
    assert {id: levels.get(id) for id in wanted} == wanted
    assert "hushhush" not in told.text
    assert told.report["platform"] == "Google Cloud Run"


KEY = json.dumps({"type": "service_account", "private_key": "-----BEGIN PRIVATE KEY-----\nMIIEvhush" + "C7" * 400})


@pytest.mark.parametrize("command", ["doctor", "predict", "serve"])
def test_a_key_that_is_given_for_its_path_is_not_shown(command: str, tmp_path: Path) -> None:
    flags = {
        "doctor": ("doctor", "--timeout", "5", "--model_name", "m", "--model_path", "gs://models/m"),
        "predict": ("predict", "gs://models/m", os.devnull),
        "serve": ("--model_name", "m", "--model_path", "gs://models/m", "--log_level", "DEBUG"),
    }
    env = {"GOOGLE_APPLICATION_CREDENTIALS": KEY, "PYTHONPATH": str(ROOT), "DECANT_CACHE_DIR": str(tmp_path / "cache")}
    ports = {"DECANT_REST_PORT": str(free_port()), "DECANT_PORT": str(free_port())}
    argv = [*DOCTOR[:-1], *flags[command]]
    variables = clean_environment(env | ports)
    done = subprocess.run(argv, env=variables, cwd=tmp_path, capture_output=True, timeout=30, check=False, text=True)
    assert done.returncode in (1, 3), done.stderr
    said = done.stdout + done.stderr
    assert "GOOGLE_APPLICATION_CREDENTIALS is no path" in said
    for secret in ("hush", "PRIVATE KEY", "C7C7"):
        assert secret not in said


def in_mounts_of_its_own(*commands: str) -> tuple[str, ...]:
    if os.geteuid():
        pytest.skip(NEEDS_ROOT)
    return ("unshare", "--mount", "sh", "-c", " && ".join([*commands, 'exec "$@"']), "sh")


@pytest.mark.container
def test_where_nothing_can_be_written_there_is_a_report(tmp_path: Path) -> None:
    fixed = in_mounts_of_its_own(
        "mount --rbind / / && mount -o remount,bind,ro /",
        # Python itself may be below one of these.
        *(f"mount --bind {at} {at} && mount -o remount,bind,ro {at}" for at in ("/tmp", "/var/tmp", "/dev/shm")),
        "cd /",
    )
    env = {"HOME": "", "PYTHONDONTWRITEBYTECODE": "1"}
    told = doctor(tmp_path, "--json", "--model_path", DIGITS, env=env, before=fixed)
    levels = told.levels()
    # The model is read where it is, and served.
    assert (levels["tmp"], levels["cache.directory"]) == ("warning", "warning")
    assert (levels["openvino"], levels["model.read"], levels["home"]) == ("ok", "ok", "ok")
    assert told.code == 0, told.text


@pytest.mark.container
def test_without_proc_and_sys_openvino_is_given_up_and_the_reason_told(tmp_path: Path) -> None:
    bare = in_mounts_of_its_own("umount -l /sys", "umount -l /proc")
    told = doctor(tmp_path, "--json", "--timeout", "3", before=bare)
    levels = told.levels()
    assert (levels["process.mounts"], levels["openvino"]) == ("problem", "problem")
    (found,) = (each for each in told.report["findings"] if each["id"] == "openvino")
    assert "mount /proc or /sys" in found["advice"]
    assert told.seconds < 15
