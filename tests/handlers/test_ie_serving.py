"""Command lines of OpenVINO Model Server's ancestor in Python, as typed behind ``ie_serving``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from tests.conftest import DIGITS
from tests.handlers.test_ovms_cli import predicted
from tests.servers.decant import decant_serve
from tests.servers.processes import clean_environment

IE_SERVING = (sys.executable, "-m", "handlers.ie_serving")
MODEL: tuple[str | Path, ...] = ("--model_name", "digits", "--model_path", DIGITS)
PREDICT = "/v1/models/digits:predict"
SEVEN = (DIGITS / "seven.json").read_bytes()


def ie_serving(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [*IE_SERVING, *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env=clean_environment())


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_is_what_comes_without_arguments_and_names_both_commands(arguments: list[str]) -> None:
    done = ie_serving(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "serve one model, which flags describe" in done.stdout
    assert "serve the models of a file" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve"], "argument COMMAND: invalid choice: 'serve'"),
        (["model", *MODEL, "--port"], "argument --port: expected one argument"),
        (["model"], "Use config_path or model_path with model_name"),
        (["config", "--config_path", "c", "--shape", "auto"], "exclusive with the config file"),
        (["config", "--config_path", "nowhere.json"], "cannot read nowhere.json: No such file or directory"),
        (["model", *MODEL, "--grpc_workers", "some"], "--grpc_max_threads is 'some'; want a whole number"),
    ],
)
def test_what_cannot_be_is_one_line_and_an_exit_code(arguments: list[str | Path], message: str) -> None:
    done = ie_serving(*arguments)
    assert (done.returncode, done.stdout) == (64, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("ie_serving")
    assert message in line


def test_the_models_of_a_file_are_served(tmp_path: Path) -> None:
    config = {"name": "digits", "base_path": str(DIGITS), "nireq": 2, "plugin_config": {"CPU_THROUGHPUT_STREAMS": "1"}}
    (tmp_path / "config.json").write_text(json.dumps({"model_config_list": [{"config": config}]}))
    flags = ["--config_path", str(tmp_path / "config.json"), "--grpc_workers", "20", "--rest_workers", "1"]
    # As an image's entry point would have it.
    with decant_serve(tmp_path, *flags, command=["ie_serving", "config"]) as server:
        assert server.post(PREDICT, SEVEN).status == 200


@pytest.mark.parametrize(
    ("function", "is_content"),
    [
        ("", True),
        ("_prepare_output_with_make_tensor_proto", True),
        ("_prepare_output_as_AppendArrayToTensorProto", False),
    ],
)
def test_one_model_is_served_and_tensors_are_written_as_its_variable_says(
    function: str, is_content: bool, tmp_path: Path
) -> None:
    env = {"SERIALIZATION_FUNCTION": function, "ENGINE_REQUESTS_QUEUE_SIZE": "10"}
    # Without a port for REST there is nothing that these threads could do.
    flags = ["--batch_size", "auto", "--rest_workers", "4"]
    with (
        decant_serve(tmp_path, *MODEL, *flags, env=env, program=IE_SERVING, command=["model"], without_rest=True) as s,
        grpc.insecure_channel(s.grpc_address) as channel,
    ):
        tensor = predicted(channel).outputs["probabilities"]
        assert bool(tensor.tensor_content) is is_content
        assert len(b"".join(tensor.float_val)) == (0 if is_content else 40)
        assert "ENGINE_REQUESTS_QUEUE_SIZE has no effect: " in s.log()
