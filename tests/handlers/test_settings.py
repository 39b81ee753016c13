from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, fields
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given as given_examples
from hypothesis.strategies import lists, sampled_from

from handlers.settings import (
    Settings,
    SettingsError,
    add_options,
    is_on_cloud_run,
    is_serverless,
    read_flags,
    read_settings,
    without_effect,
)
from model_cache.policy import Latest

PARSER = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
add_options(PARSER)


def given(flags: Sequence[str]) -> dict[str, str]:
    """What argparse makes of flags; ArgumentError or SystemExit if it cannot."""
    return {name: text for name, text in vars(PARSER.parse_args(flags)).items() if text is not None}


def parse(*flags: str) -> Settings:
    found = given(flags)
    assert read_flags(flags) in (found, None)
    return read_settings(found)


WORDS = ["--port", "--port=1", "--rest-port", "--rest_api_port", "--model_name", "--model_name=", "--model-name=a=b"]
SWITCHES = ["--enable_batching", "--enable-batching", "--enable_batching=0", "--grpc_reflection"]
OTHERS = [
    "8500",
    "true",
    "",
    " ",
    "a b",
    "=",
    "-",
    "--",
    "-1",
    "-1.5",
    "-x",
    "-x y",
    "--no",
    "--por",
    "--help",
    "serve",
]


@given_examples(lists(sampled_from([*WORDS, *SWITCHES, *OTHERS]), max_size=6))
def test_flags_are_read_as_argparse_reads_them_or_left_to_it(flags: list[str]) -> None:
    quick = read_flags(flags)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            found: dict[str, str] | None = given(flags)
    except (argparse.ArgumentError, SystemExit):
        found = None
    assert quick in (found, None)


@pytest.mark.parametrize(
    ("flags", "want"),
    [
        ([], {}),
        (["--port", "1", "--rest-port=2"], {"port": "1", "rest_port": "2"}),
        (["--enable_batching", "--grpc_reflection", "false"], {"enable_batching": "true", "grpc_reflection": "false"}),
        (["--port", "1", "--port", "2"], {"port": "2"}),
    ],
)
def test_what_is_usual_needs_no_argparse(flags: list[str], want: dict[str, str]) -> None:
    assert read_flags(flags) == want


def test_the_promised_defaults() -> None:
    defaults = asdict(Settings())
    assert defaults.pop("cache_dir").startswith("/tmp/decant-")
    assert defaults == {
        "model_name": "default",
        "model_path": "",
        "version_labels": None,
        "model_config_file": "",
        "model_config": "",
        "model_config_file_poll_wait_seconds": None,
        "allow_version_labels_for_unavailable_models": False,
        "model_version_policy": None,
        "file_system_poll_wait_seconds": None,
        "ready_marker": "",
        "load_timeout": 60.0,
        "port": 8500,
        "rest_port": 8501,
        "grpc_bind_address": "0.0.0.0",
        "rest_bind_address": "0.0.0.0",
        "grpc_socket_path": "",
        "grpc_reflection": False,
        "ssl_config_file": "",
        "grpc_tls_key_file": "",
        "grpc_tls_cert_file": "",
        "grpc_tls_client_ca_file": "",
        "enable_serialization_as_tensor_content": False,
        "tensor_content_from": 0,
        "model_control": True,
        "rest_api_enable_cors_support": False,
        "rest_api_timeout_in_ms": 30000,
        "enable_model_warmup": True,
        "num_request_iterations_for_warmup": 1,
        "enable_signature_warmup": True,
        "enable_batching": False,
        "batching_parameters_file": "",
        "max_batch_size": 1000,
        "batch_timeout_micros": 0,
        "max_enqueued_batches": 10,
        "num_batch_threads": 0,
        "allowed_batch_sizes": (),
        "pad_variable_length_inputs": False,
        "enable_per_model_batching_parameters": False,
        "workers": 1,
        "plugin_config": None,
        "nireq": 0,
        "shape": "",
        "batch_size": "",
        "layout": "",
        "target_device": "",
        "allow_cache": False,
        "mean": "",
        "scale": "",
        "color_format": "",
        "precision": "",
        "stateful": False,
        "idle_sequence_cleanup": True,
        "low_latency_transformation": False,
        "max_sequence_number": "",
        "sequence_cleaner_poll_wait_minutes": 5.0,
        "cpu_extension": "",
        "lazy": None,
        "preload": (),
        "lambda_error_statuses": (),
        "lambda_outputs": (),
        "lambda_deadline_margin": 1.0,
        "lambda_gateway_timeout": None,
        "lambda_base_path": "",
        "metrics_enable": False,
        "metrics_list": (),
        "grpc_workers": 1,
        "grpc_max_threads": 0,
        "grpc_channel_arguments": None,
        "rest_workers": 0,
        "custom_node_resources_cleaner_interval_seconds": 1.0,
        "compiled_cache": True,
        "keep_compiled": True,
        "log_level": "INFO",
        "log_format": "auto",
        "log_path": "",
        "disk_budget": 0,
        "memory_budget": 0,
        "max_body_size": 64 * 1024 * 1024,
        "max_in_flight": 256,
        "shutdown_timeout": 8.0,
        "s3_endpoint": "",
        "storage_client": "auto",
        "storage_anonymous": False,
    }


VALUES = {
    "port": ("1", 1),
    "rest_port": ("0", 0),
    "compiled_cache": ("false", False),
    "keep_compiled": ("false", False),
    "log_level": ("debug", "DEBUG"),
    "disk_budget": ("1.5G", 3 << 29),
    "memory_budget": ("512M", 512 << 20),
    "max_body_size": ("4096", 4096),
    "max_in_flight": ("7", 7),
    "shutdown_timeout": ("2.5", 2.5),
    "s3_endpoint": ("minio:9000", "http://minio:9000"),
    "model_version_policy": ('{"latest": {"num_versions": 2}}', Latest(2)),
    "file_system_poll_wait_seconds": ("1", 1.0),
    "ready_marker": ("_SUCCESS", "_SUCCESS"),
    "load_timeout": ("90", 90.0),
    "storage_client": ("sdk", "sdk"),
    "storage_anonymous": ("true", True),
    "version_labels": ('{"stable": 1}', {"stable": 1}),
    "model_config_file_poll_wait_seconds": ("30", 30.0),
    "allow_version_labels_for_unavailable_models": ("true", True),
    "grpc_reflection": ("1", True),
    "enable_serialization_as_tensor_content": ("true", True),
    "tensor_content_from": ("64K", 64 << 10),
    "model_control": ("false", False),
    "rest_api_enable_cors_support": ("true", True),
    "rest_api_timeout_in_ms": ("5000", 5000),
    "enable_model_warmup": ("false", False),
    "num_request_iterations_for_warmup": ("3", 3),
    "enable_signature_warmup": ("false", False),
    "enable_batching": ("true", True),
    "max_batch_size": ("32", 32),
    "batch_timeout_micros": ("0", 0),
    "max_enqueued_batches": ("5", 5),
    "num_batch_threads": ("2", 2),
    "allowed_batch_sizes": ("1, 8,32", (1, 8, 32)),
    "pad_variable_length_inputs": ("true", True),
    "enable_per_model_batching_parameters": ("true", True),
    "workers": ("0", 0),
    "plugin_config": (
        '{"NUM_STREAMS": 2, "ENABLE_CPU_PINNING": false, "PERFORMANCE_HINT": "LATENCY"}',
        {"NUM_STREAMS": "2", "ENABLE_CPU_PINNING": "NO", "PERFORMANCE_HINT": "LATENCY"},
    ),
    "nireq": ("4", 4),
    "allow_cache": ("true", True),
    "stateful": ("true", True),
    "idle_sequence_cleanup": ("false", False),
    "low_latency_transformation": ("true", True),
    "sequence_cleaner_poll_wait_minutes": ("0", 0.0),
    "lazy": ("false", False),
    "preload": ("a, b", ("a", "b")),
    "lambda_error_statuses": ("429, 500-599", (range(429, 430), range(500, 600))),
    "lambda_outputs": ("s3://answers/a/, gs://answers/b", ("s3://answers/a", "gs://answers/b")),
    "lambda_deadline_margin": ("0.5", 0.5),
    "lambda_gateway_timeout": ("120", 120.0),
    "lambda_base_path": ("/ml/", "/ml"),
    "metrics_enable": ("true", True),
    "metrics_list": ("ovms_streams,ovms_requests_fail", ("ovms_streams", "ovms_requests_fail")),
    "grpc_workers": ("2", 2),
    "grpc_max_threads": ("16", 16),
    "grpc_channel_arguments": (
        "grpc.max_connection_age_ms=2000,grpc.primary_user_agent=a=b",
        {"grpc.max_connection_age_ms": 2000, "grpc.primary_user_agent": "a=b"},
    ),
    "rest_workers": ("24", 24),
    "custom_node_resources_cleaner_interval_seconds": ("60", 60.0),
    "log_format": ("JSON", "json"),
}


@pytest.mark.parametrize("name", [field.name for field in fields(Settings)])
def test_each_setting_is_a_flag_in_two_spellings_and_a_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, want = VALUES.get(name, ("some text", "some text"))
    assert getattr(parse(f"--{name}", text), name) == want
    assert getattr(parse(f"--{name.replace('_', '-')}", text), name) == want
    monkeypatch.setenv(f"DECANT_{name.upper()}", text)
    assert getattr(parse(), name) == want


def test_the_flag_wins_over_the_variable_and_the_variable_over_the_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "8080")
    assert parse().rest_port == 8080
    monkeypatch.setenv("DECANT_REST_PORT", "8081")
    assert parse().rest_port == 8081
    assert parse("--rest_port", "8082").rest_port == 8082


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECANT_PORT", "")
    monkeypatch.setenv("DECANT_LOG_LEVEL", "")
    assert parse() == Settings()


@pytest.mark.parametrize(
    ("variable", "value", "want"),
    [
        ("AWS_ENDPOINT_URL_S3", "https://s3.example", "https://s3.example"),
        ("AWS_ENDPOINT_URL", "http://localhost:1", "http://localhost:1"),
        ("S3_ENDPOINT", "minio:9000", "http://minio:9000"),
    ],
)
def test_the_s3_endpoint_has_the_names_of_the_sdk_and_of_ovms(
    variable: str, value: str, want: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert parse().s3_endpoint == want


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "x"], "--port is 'x'; want a port number, or 0 for none"),
        (["--port", "65536"], "--port is '65536'; want a port number"),
        (["--rest_port", "-1"], "--rest_port is '-1'; want a port number"),
        (["--grpc_channel_arguments", "grpc.max_connection_age_ms"], "want name=value,name=value"),
        (["--grpc_channel_arguments", "=1"], "want name=value,name=value"),
        (["--grpc_channel_arguments", "a="], "want name=value,name=value"),
        (["--grpc_channel_arguments", "a=99999999999"], "want name=value,name=value"),
        (["--log_format", "xml"], "--log_format is 'xml'; want one of auto, text, json"),
        (["--enable_serialization_as_tensor_content", "maybe"], "want true or false"),
        (["--log_level", "loud"], "--log_level is 'loud'; want one of DEBUG, INFO, WARNING, ERROR"),
        (["--max_body_size", "-1"], "--max_body_size is '-1'; want a number of bytes"),
        (["--max_body_size", "G"], "--max_body_size is 'G'; want a number of bytes"),
        (["--max_body_size", "1e400"], "--max_body_size is '1e400'; want a number of bytes"),
        (["--max_in_flight", "0"], "--max_in_flight is '0'; want a whole number above 0"),
        (["--shutdown_timeout", "nan"], "--shutdown_timeout is 'nan'; want a number of seconds"),
        (["--storage_client", "curl"], "--storage_client is 'curl'; want one of auto, sdk, obstore"),
        (["--storage_anonymous", "perhaps"], "--storage_anonymous is 'perhaps'; want true or false"),
        (["--ready_marker", "a/b"], "--ready_marker is 'a/b'; want a file's name"),
        (["--model_version_policy", "newest"], "--model_version_policy is 'newest'; want {"),
        (["--version_labels", "stable=1"], "--version_labels is 'stable=1'; want versions by label, such as {"),
        (["--version_labels", '{"stable": -1}'], "want versions by label"),
        (["--version_labels", '{"stable": true}'], "want versions by label"),
        (["--version_labels", '{"stable": 9223372036854775808}'], "want versions by label"),
        (["--version_labels", '{"": 1}'], "want versions by label"),
        (["--version_labels", "[1]"], "want versions by label"),
        (["--allowed_batch_sizes", "8,4"], "--allowed_batch_sizes is '8,4'; want whole numbers that increase"),
        (["--allowed_batch_sizes", "0,4"], "want whole numbers that increase"),
        (["--workers", "-1"], "--workers is '-1'; want a whole number"),
        (["--plugin_config", "A=2"], "--plugin_config is 'A=2'; want OpenVINO's properties, such as {"),
        (["--plugin_config", '["NUM_STREAMS"]'], "want OpenVINO's properties"),
        (["--plugin_config", '{"NUM_STREAMS": [2]}'], "want OpenVINO's properties"),
        (["--plugin_config", '{"NUM_STREAMS": null}'], "want OpenVINO's properties"),
        (["--plugin_config", '{"": 2}'], "want OpenVINO's properties"),
        (["--nireq", "-1"], "--nireq is '-1'; want a whole number up to 100000"),
        (["--nireq", "100001"], "want a whole number up to 100000"),
        (["--batch_timeout_micros", "-1"], "--batch_timeout_micros is '-1'; want a whole number"),
        (["--s3_endpoint", "ftp://x"], "--s3_endpoint is 'ftp://x'; want an http:// or https:// URL"),
        (["--s3_endpoint", "http://["], "--s3_endpoint is 'http://['; want an http:// or https:// URL"),
        (["--s3_endpoint", "https:///x"], "--s3_endpoint is 'https:///x'; want an http:// or https:// URL"),
    ],
)
def test_a_bad_value_is_named_with_what_is_wanted(flags: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(*flags)
    assert message in str(caught.value)


def test_a_bad_variable_is_named_as_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "http")
    with pytest.raises(SettingsError, match=r"^PORT is 'http'; want a port number"):
        parse()


@pytest.mark.parametrize(
    ("ports", "message"),
    [
        (("8501", "8501"), "port and rest_port cannot have the same values: 8501"),
        (("0", "0"), "both 0, and there is no grpc_socket_path"),
    ],
)
def test_ports_matter_only_to_who_needs_them(ports: tuple[str, str], message: str) -> None:
    settings = parse("--port", ports[0], "--rest_port", ports[1])
    with pytest.raises(SettingsError, match=message):
        settings.require_ports()


@pytest.mark.parametrize("ports", [("0", "8501"), ("8500", "0"), ("8500", "8501")])
def test_one_port_is_enough(ports: tuple[str, str]) -> None:
    parse("--port", ports[0], "--rest_port", ports[1]).require_ports()


def test_a_socket_is_enough() -> None:
    parse("--port", "0", "--rest_port", "0", "--grpc_socket_path", "/run/decant.sock").require_ports()


def test_a_switch_needs_no_value() -> None:
    assert parse("--storage_anonymous").storage_anonymous
    assert not parse("--storage_anonymous", "0").storage_anonymous


def test_storages_are_told_what_is_set_and_what_the_environment_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "somebody")
    options = parse(
        "--s3_endpoint", "minio:9000", "--storage_client", "obstore", "--storage_anonymous"
    ).storage_options()
    assert (options.s3_endpoint, options.client, options.is_anonymous) == ("http://minio:9000", "obstore", True)
    assert options.environ["AZURE_STORAGE_ACCOUNT"] == "somebody"


def test_cloud_run_is_known_by_the_variable_it_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("K_SERVICE", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert not is_on_cloud_run()
    monkeypatch.setenv("K_SERVICE", "digits")
    assert is_on_cloud_run()
    # Knative sets it, too; what its pods write is on a disk, and takes no memory.
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert not is_on_cloud_run()


@pytest.mark.parametrize("level", ["TRACE", "trace"])
def test_ovmss_finest_level_is_our_finest(level: str) -> None:
    assert parse("--log_level", level).log_level == "DEBUG"


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ("http://user:secret@minio:9000", "http://minio:9000"),
        ("user:secret@minio:9000", "http://minio:9000"),
        ("https://secret@minio/", "https://minio/"),
        ("https://user:se/cr@et@minio", "https://minio"),
        ("https://user:sec://ret@minio", "https://minio"),
    ],
)
def test_no_password_is_kept_of_an_endpoint(given: str, want: str) -> None:
    assert parse("--s3_endpoint", given).s3_endpoint == want


@pytest.mark.parametrize(
    "given", ["ftp://user:secret@x", "http://user:secret@", "user:secret://x@", "https://:secret@[", "x:secret://@y://"]
)
def test_no_error_quotes_the_password_of_an_endpoint(given: str) -> None:
    with pytest.raises(SettingsError, match="--s3_endpoint is") as caught:
        parse("--s3_endpoint", given)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "no model is given; want --model_path or DECANT_MODEL_PATH, or --model_config_file or"),
        (["--model_name", "m"], "no model is given"),
        (["--model_name", "a\nb", "--model_path", "x"], "model_name is 'a\\nb'; want a name that can be printed"),
        (["--model_config_file", "f", "--model_path", "x"], "model_config_file and model_path are both given"),
        (["--model_config_file", "f", "--model_name", "m"], "model_config_file and model_name are both given"),
        (
            ["--model_config_file", "f", "--version_labels", '{"a": 1}'],
            "model_config_file and version_labels are both given; want what the second says in the file",
        ),
        (["--config_path", "f", "--model_version_policy", "all {}"], "model_config_file and model_version_policy are"),
        (["--config_path", "f", "--shape", "auto"], "Model parameters in CLI are exclusive with the config file: "),
        (["--config_path", "f", "--stateful"], "model_config_file and stateful are both given"),
        (["--config_path", "f", "--model_name", "m"], "Use either config_path or model_path with model_name: "),
        ([], "Use config_path or model_path with model_name: "),
        (
            ["--model_path", "x", "--max_sequence_number", "7"],
            "Setting low_latency_transformation, max_sequence_number and idle_sequence_cleanup require setting "
            "stateful flag for the model: max_sequence_number is given without stateful",
        ),
        (
            ["--model_path", "x", "--model_config_file_poll_wait_seconds", "5"],
            "model_config_file_poll_wait_seconds is given without model_config_file",
        ),
    ],
)
def test_models_are_given_by_flags_or_by_a_file_and_not_by_both(flags: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(*flags).require_models()
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["m", "a/b", "a:b", "Größe"])
def test_a_model_may_have_any_name_that_a_client_can_write(name: str) -> None:
    parse("--model_name", name, "--model_path", "x").require_models()


def test_a_model_without_a_name_has_tensorflow_servings() -> None:
    settings = parse("--model_base_path", "/models/m")
    settings.require_models()
    assert (settings.model_name, settings.model_path) == ("default", "/models/m")


@pytest.mark.parametrize(
    ("flags", "environ", "want"),
    [
        ([], {"MODEL_NAME": "m", "MODEL_BASE_PATH": "/models"}, ("m", "/models/m")),
        ([], {"MODEL_NAME": "m", "MODEL_BASE_PATH": "s3://models/"}, ("m", "s3://models/m")),
        (["--model_name", "n"], {"MODEL_NAME": "m", "MODEL_BASE_PATH": "/models"}, ("n", "/models/n")),
        (["--model_path", "/x"], {"MODEL_NAME": "m", "MODEL_BASE_PATH": "/models"}, ("default", "/x")),
        ([], {"MODEL_NAME": "m"}, ("default", "")),
        ([], {"MODEL_BASE_PATH": "/models"}, ("default", "")),
        (["--config_path", "f"], {"MODEL_NAME": "m", "MODEL_BASE_PATH": "/models"}, ("default", "")),
    ],
)
def test_the_variables_of_tensorflow_servings_image_name_a_model_where_nothing_else_does(
    flags: list[str], environ: dict[str, str], want: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    settings = parse(*flags)
    assert (settings.model_name, settings.model_path) == want


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--enable_batching", "--batching_parameters_file", "f", "--max_batch_size", "8"],
            "batching_parameters_file and max_batch_size are both given; want what the second says in the file",
        ),
        (["--max_batch_size", "8"], "max_batch_size is given without enable_batching; want both"),
        (["--batching_parameters_file", "f"], "batching_parameters_file is given without enable_batching"),
        (["--enable_per_model_batching_parameters"], "enable_per_model_batching_parameters is given without enable_"),
    ],
)
def test_what_says_how_to_batch_needs_batching_and_one_place(flags: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(*flags).require_batching()
    assert message in str(caught.value)


def test_batching_may_be_set_by_flags_or_by_a_file() -> None:
    parse().require_batching()
    parse("--enable_batching", "--max_batch_size", "8", "--allowed_batch_sizes", "4,8").require_batching()
    parse("--enable_batching", "--batching_parameters_file", "f").require_batching()


def test_the_one_models_parameters_have_their_names_in_config_json_and_are_there_if_given() -> None:
    assert parse("--model_path", "x", "--model_name", "m", "--batch_size", "").model_fields() == {}
    given = [
        *("--shape", "auto", "--layout", "NHWC:NCHW", "--nireq", "2", "--stateful", "--idle_sequence_cleanup", "false"),
        *("--plugin_config", '{"NUM_STREAMS": 2}', "--max_sequence_number", "0"),
    ]
    settings = parse("--model_path", "x", *given)
    settings.require_models()
    assert settings.model_fields() == {
        "shape": "auto",
        "layout": "NHWC:NCHW",
        "nireq": 2,
        "stateful": True,
        "idle_sequence_cleanup": False,
        "plugin_config": {"NUM_STREAMS": "2"},
        "max_sequence_number": "0",
    }


def test_properties_may_have_the_names_they_had_once() -> None:
    text = '{"CPU_THROUGHPUT_STREAMS": "2", "CPU_THREADS_NUM": 4}'
    assert parse("--plugin_config", text).plugin_config == {"NUM_STREAMS": "2", "INFERENCE_NUM_THREADS": "4"}


def test_what_holds_for_all_models_may_stand_beside_a_file() -> None:
    parse("--config_path", "f", "--plugin_config", '{"NUM_STREAMS": 2}', "--nireq", "2").require_models()


CPUS = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--grpc_workers", "0"], f"grpc_workers count should be from 1 to CPU core count : {CPUS}; it is 0"),
        (["--grpc_workers", str(CPUS + 1)], f"from 1 to CPU core count : {CPUS}; it is {CPUS + 1}"),
        (["--rest_workers", "1"], "rest_workers count should be from 2 to 10000; it is 1"),
        (["--rest_workers", "10001"], "rest_workers count should be from 2 to 10000; it is 10001"),
        (["--rest_workers", "2", "--rest_port", "0"], "rest_workers is set but rest_port is not set. rest_port is"),
        (["--metrics_enable", "--rest_port", "0"], "rest_port setting is missing, metrics are enabled on rest port"),
        (["--metrics_list", "ovms_streams"], "metrics_enable setting is missing, required when metrics_list is"),
        (
            ["--cpu_extension", "/nowhere.so"],
            "File path provided as an --cpu_extension parameter does not exists in the filesystem: /nowhere.so",
        ),
    ],
)
def test_what_a_server_cannot_have_is_said_as_ovms_says_it(flags: list[str], message: str) -> None:
    settings = parse("--model_path", "/models/m", *flags)

    def require() -> None:
        settings.require_models()
        settings.require_ports()

    with pytest.raises(SettingsError) as caught:
        require()
    assert message in str(caught.value)


@pytest.mark.parametrize("variable", ["DECANT_PORT", "DECANT_REST_PORT"])
def test_what_kubernetes_says_of_a_service_of_our_name_is_no_port_of_ours(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "tcp://10.0.0.1:8500")
    assert (parse().port, parse().rest_port) == (8500, 8501)
    monkeypatch.setenv(variable, "9000")
    assert 9000 in (parse().port, parse().rest_port)


def test_as_many_workers_as_may_be_may_be(tmp_path: Path) -> None:
    (tmp_path / "extension.so").touch()
    most = ["--grpc_workers", str(CPUS), "--rest_workers", "10000", "--cpu_extension", str(tmp_path / "extension.so")]
    parse(*most, "--metrics_enable", "--metrics_list", "ovms_streams").require_ports()


@pytest.mark.parametrize(("servers", "want"), [("1", 1), (str(CPUS), CPUS), ("1000", CPUS)])
def test_ovmss_variable_for_grpc_workers_wins_over_the_flag_as_far_as_there_are_cpus(
    servers: str, want: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRPC_SERVERS", servers)
    settings = parse("--grpc_workers", "5000")
    settings.require_ports()
    assert settings.grpc_workers == want


def test_a_bad_number_of_grpc_servers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPC_SERVERS", "many")
    with pytest.raises(SettingsError, match=r"^GRPC_SERVERS is 'many'; want a whole number above 0"):
        parse()


@pytest.mark.parametrize(
    ("variable", "text", "name", "want"),
    [
        ("LOG_LEVEL", "ERROR", "log_level", "ERROR"),
        ("AWS_LAMBDA_LOG_LEVEL", "WARN", "log_level", "WARNING"),
        ("AWS_LAMBDA_LOG_LEVEL", "FATAL", "log_level", "ERROR"),
        ("LOG_PATH", "/var/log/ovms.log", "log_path", "/var/log/ovms.log"),
        ("FILE_SYSTEM_POLL_WAIT_SECONDS", "0", "file_system_poll_wait_seconds", 0.0),
        ("CPU_EXTENSION", "/opt/lib.so", "cpu_extension", "/opt/lib.so"),
        (
            *("SERIALIZATION_FUNCTION", "_prepare_output_with_make_tensor_proto"),
            *("enable_serialization_as_tensor_content", True),
        ),
        (
            *("SERIALIZATION_FUNCTION", "_prepare_output_as_AppendArrayToTensorProto"),
            *("enable_serialization_as_tensor_content", False),
        ),
    ],
)
def test_variables_of_the_python_server_and_of_lambda_are_read(
    variable: str, text: str, name: str, want: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)
    assert getattr(read_settings({}, {"enable_serialization_as_tensor_content": not want}), name) == want


@pytest.mark.parametrize(
    "variable",
    [
        *("PLUGIN_DIR", "REST_REQUESTS_QUEUE_SIZE", "ENGINE_REQUESTS_QUEUE_SIZE", "ENGINE_REQUESTS_QUEUE_TIMEOUT"),
        "S3_SIGNATURE",
    ],
)
def test_what_has_no_effect_is_told(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(without_effect(parse())) == []
    monkeypatch.setenv(variable, "1")
    (line,) = without_effect(parse())
    assert line.startswith(f"{variable} has no effect: ")


def test_custom_nodes_that_there_are_not_need_no_cleaning() -> None:
    (line,) = without_effect(parse("--custom_node_resources_cleaner_interval_seconds", "30"))
    assert line.startswith("custom_node_resources_cleaner_interval_seconds has no effect")


@pytest.mark.parametrize("variable", ["AWS_LAMBDA_FUNCTION_NAME", "K_SERVICE", "CONTAINER_APP_NAME"])
def test_serverless_platforms_are_known_by_the_variables_they_set(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_serverless()
    monkeypatch.setenv(variable, "digits")
    assert is_serverless()
