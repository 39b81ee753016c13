"""Command lines of OpenVINO Model Server, as typed behind ``ovms``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from handlers.ovms import DEFAULTS, defaults, not_its_own
from handlers.settings import read_settings
from runtime.codecs import schema
from tests.conftest import DIGITS
from tests.servers.decant import decant_serve
from tests.servers.processes import clean_environment

OVMS = (sys.executable, "-m", "handlers.ovms")
DECANT_OVMS = (sys.executable, "-m", "handlers.cli", "ovms")
MODEL: tuple[str | Path, ...] = ("--model_name", "digits", "--model_path", DIGITS)
CPUS = len(os.sched_getaffinity(0))


def ovms(
    *arguments: str | Path, env: dict[str, str] | None = None, program: Sequence[str] = OVMS
) -> subprocess.CompletedProcess[str]:
    argv = [*program, *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env=clean_environment(env))


def predicted(channel: grpc.Channel) -> Any:
    """The answer for an empty image."""
    request = schema.PredictRequest(model_spec={"name": "digits"})
    request.inputs["image"].dtype = 1
    for size in (1, 8, 8):
        request.inputs["image"].tensor_shape.dim.add(size=size)
    request.inputs["image"].tensor_content = bytes(256)
    call: Any = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    return schema.PredictResponse.FromString(call(request.SerializeToString(), timeout=60))


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
@pytest.mark.parametrize("program", [OVMS, DECANT_OVMS], ids=["ovms", "decant ovms"])
def test_help_is_what_comes_without_arguments_and_has_each_flag(arguments: list[str], program: Sequence[str]) -> None:
    done = ovms(*arguments, env={"DECANT_MODEL_PATH": str(DIGITS)}, program=program)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ovms [-h] [--version]")
    flags = """
        config_path model_name model_path batch_size shape layout model_version_policy nireq target_device plugin_config
        stateful idle_sequence_cleanup low_latency_transformation max_sequence_number port rest_port grpc_bind_address
        rest_bind_address grpc_workers rest_workers grpc_channel_arguments log_level log_path cache_dir cpu_extension
        file_system_poll_wait_seconds sequence_cleaner_poll_wait_minutes custom_node_resources_cleaner_interval_seconds
        metrics_enable metrics_list grpc_max_threads mean scale color_format precision allow_cache
    """
    for flag in flags.split():
        assert f" --{flag} " in done.stdout or f" --{flag}," in done.stdout


def test_the_version_is_ours_and_openvinos() -> None:
    done = ovms("--version")
    assert (done.returncode, done.stderr) == (0, "")
    ours, openvinos = done.stdout.splitlines()
    assert ours.startswith("Decant ")
    assert openvinos.startswith("OpenVINO backend ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # Of builds that trace, which the usual ones are not.
        ([*MODEL, "--trace_path", "t"], "error parsing options: unrecognized arguments: --trace_path t"),
        ([*MODEL, "--port"], "error parsing options: argument --port: expected one argument"),
        (["serve", *MODEL], "error parsing options: unrecognized arguments: serve"),
        (["--model_name", "m"], "Use config_path or model_path with model_name"),
        ([*MODEL, "--config_path", "c"], "Use either config_path or model_path with model_name"),
        (["--config_path", "c", "--batch_size", "2"], "Model parameters in CLI are exclusive with the config file"),
        ([*MODEL, "--low_latency_transformation"], "max_sequence_number and idle_sequence_cleanup require setting"),
        ([*MODEL, "--port", "8000", "--rest_port", "8000"], "port and rest_port cannot have the same values"),
        ([*MODEL, "--grpc_workers", str(CPUS + 1)], f"grpc_workers count should be from 1 to CPU core count : {CPUS}"),
        ([*MODEL, "--rest_workers", "10001", "--rest_port", "1"], "rest_workers count should be from 2 to 10000"),
        ([*MODEL, "--rest_workers", "4"], "rest_port is required to start rest servers"),
        ([*MODEL, "--metrics_enable"], "rest_port setting is missing, metrics are enabled on rest port"),
        ([*MODEL, "--cpu_extension", "/no.so"], "parameter does not exists in the filesystem: /no.so"),
        ([*MODEL, "--grpc_channel_arguments", "a"], "--grpc_channel_arguments is 'a'; want name=value,name=value"),
    ],
)
def test_what_cannot_be_is_one_line_with_ovmss_text_and_its_exit_code(
    arguments: list[str | Path], message: str
) -> None:
    done = ovms(*arguments)
    assert (done.returncode, done.stdout) == (64, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("ovms: ")
    assert message in line
    assert line.endswith("see ovms --help")


def test_its_defaults_are_those_of_openvino_model_server(tmp_path: Path) -> None:
    settings = read_settings({}, defaults(tmp_path))
    assert (settings.port, settings.rest_port, settings.file_system_poll_wait_seconds) == (9178, 0, 1.0)
    assert settings.enable_serialization_as_tensor_content
    assert settings.cache_dir == str(tmp_path)
    assert read_settings({}, defaults(tmp_path / "absent")).cache_dir == read_settings({}).cache_dir


def test_a_variable_that_is_another_programs_is_no_port_but_on_cloud_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "44511")
    monkeypatch.delenv("K_SERVICE", raising=False)
    assert read_settings({"port": "44511"}, DEFAULTS, passed_over=not_its_own()).rest_port == 0
    monkeypatch.setenv("K_SERVICE", "s")
    assert read_settings({}, DEFAULTS, passed_over=not_its_own()).rest_port == 44511


def test_a_command_line_of_its_documentation_serves(tmp_path: Path) -> None:
    flags = [
        *("--nireq", "4", "--target_device", "CPU", "--plugin_config", '{"PERFORMANCE_HINT": "LATENCY"}'),
        *("--model_version_policy", '{"latest": {"num_versions": 1}}', "--log_level", "DEBUG", "--grpc_workers", "1"),
        *("--rest_workers", "8", "--file_system_poll_wait_seconds", "0", "--log_path", "ovms.log", "--shape", "auto"),
        *("--grpc_channel_arguments", "grpc.max_connection_age_ms=20000", "--sequence_cleaner_poll_wait_minutes", "0"),
    ]
    with decant_serve(tmp_path, *MODEL, *flags, program=OVMS, command=()) as server:
        assert server.post("/v1/models/digits:predict", (DIGITS / "seven.json").read_bytes()).status == 200
        with grpc.insecure_channel(server.grpc_address) as channel:
            assert predicted(channel).outputs["probabilities"].tensor_content
        assert server.terminate() == 0
    assert (tmp_path / "ovms.log").read_text() == server.log()
