from __future__ import annotations

import argparse
from dataclasses import asdict, fields

import pytest

from handlers.settings import Settings, SettingsError, add_options, is_on_cloud_run, read_settings
from model_cache.policy import Latest


def parse(*flags: str) -> Settings:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_options(parser)
    return read_settings(vars(parser.parse_args(flags)))


def test_the_promised_defaults() -> None:
    defaults = asdict(Settings())
    assert defaults.pop("cache_dir").startswith("/tmp/decant-")
    assert defaults == {
        "model_name": "",
        "model_path": "",
        "model_version_policy": None,
        "file_system_poll_wait_seconds": 10.0,
        "ready_marker": "",
        "load_timeout": 60.0,
        "port": 8500,
        "rest_port": 8501,
        "grpc_bind_address": "0.0.0.0",
        "rest_bind_address": "0.0.0.0",
        "log_level": "INFO",
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
    [(("8501", "8501"), "port and rest_port cannot have the same values: 8501"), (("0", "0"), "both 0")],
)
def test_ports_matter_only_to_who_needs_them(ports: tuple[str, str], message: str) -> None:
    settings = parse("--port", ports[0], "--rest_port", ports[1])
    with pytest.raises(SettingsError, match=message):
        settings.require_ports()


@pytest.mark.parametrize("ports", [("0", "8501"), ("8500", "0"), ("8500", "8501")])
def test_one_port_is_enough(ports: tuple[str, str]) -> None:
    parse("--port", ports[0], "--rest_port", ports[1]).require_ports()


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
    assert not is_on_cloud_run()
    monkeypatch.setenv("K_SERVICE", "digits")
    assert is_on_cloud_run()


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


@pytest.mark.parametrize("name", ["a/b", "a:b"])
def test_a_name_that_no_url_could_hold_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="want a name without / and :"):
        Settings(model_name=name, model_path="x").require_model()
