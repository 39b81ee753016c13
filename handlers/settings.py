"""What an operator can set. One field is one flag and one environment variable; nothing else reads either.

``--rest_port 8080``, ``--rest-port 8080`` and ``DECANT_REST_PORT=8080`` are the same; the flag wins. Names are
OpenVINO Model Server's where it has the flag.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from model_cache.policy import MAX_VERSION, VersionPolicy, parse_policy
from model_cache.repository import LISTING_TTL
from model_cache.storage import StorageOptions

if TYPE_CHECKING:
    import argparse

PREFIX = "DECANT_"
_WORKER = "_DECANT_WORKER"
CLIENTS = ("auto", "sdk", "obstore")
MAX_REQUESTS = 100_000
"""Infer requests of one model; OpenVINO Model Server's limit."""
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_OF_ONE_MODEL = ("model_name", "model_path", "model_version_policy", "version_labels")
OF_TLS = ("ssl_config_file", "grpc_tls_key_file", "grpc_tls_cert_file", "grpc_tls_client_ca_file")
OF_BATCHING = (
    "max_batch_size",
    "batch_timeout_micros",
    "max_enqueued_batches",
    "num_batch_threads",
    "allowed_batch_sizes",
    "pad_variable_length_inputs",
)


# OpenVINO Model Server's switches need no value.
_SWITCHED_ON = "true"


class SettingsError(Exception):
    """A value that cannot be; the message names the setting, the value and what is wanted."""


class Kind(NamedTuple):
    """How a setting is read from text; ``parse`` raises ValueError for what is not what it ``wants``."""

    wants: str
    parse: Callable[[str], Any]
    quote: Callable[[str], str] = str
    """What of a bad value an error may show."""


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise ValueError
    return port


def _bytes(text: str) -> int:
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
    number, unit = (text[:-1], units[text[-1].upper()]) if text[-1:].upper() in units else (text, 1)
    size = int(float(number) * unit)
    if size < 0:
        raise ValueError
    return size


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < 1e6:
        raise ValueError
    return seconds


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError
    return count


def _count_or_none(text: str) -> int:
    return _count(text) if text != "0" else 0


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(_count(size) for size in text.replace(" ", "").split(","))
    if list(sizes) != sorted(set(sizes)):
        raise ValueError
    return sizes


def _labels(text: str) -> Mapping[str, int]:
    labels = json.loads(text)
    if not isinstance(labels, dict) or not all(labels):
        raise ValueError
    # True is an int to Python.
    if not all(type(version) is int and 0 <= version <= MAX_VERSION for version in labels.values()):
        raise ValueError
    return labels


def _properties(text: str) -> Mapping[str, str]:
    properties = json.loads(text)
    if not isinstance(properties, dict) or not all(properties):
        raise ValueError
    return {name: _property(value) for name, value in properties.items()}


def _property(value: object) -> str:
    """Return a property's value as text, from which OpenVINO reads all of them."""
    if isinstance(value, bool):
        return "YES" if value else "NO"
    if not isinstance(value, str | int | float):
        raise ValueError
    return str(value)


def _requests(text: str) -> int:
    requests = int(text)
    if not 0 <= requests <= MAX_REQUESTS:
        raise ValueError
    return requests


def _level(text: str) -> str:
    # OpenVINO Model Server has one level more.
    level = "DEBUG" if text.upper() == "TRACE" else text.upper()
    if level not in LOG_LEVELS:
        raise ValueError
    return level


def _client(text: str) -> str:
    if text not in CLIENTS:
        raise ValueError
    return text


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise ValueError
    return text.lower() in ("true", "1")


def _file_name(text: str) -> str:
    if "/" in text or text in (".", ".."):
        raise ValueError
    return text


def _endpoint(text: str) -> str:
    # OpenVINO Model Server's S3_ENDPOINT may come without a scheme, and means http then.
    url = text if "://" in text else f"http://{text}"
    url = _without_user(url)
    if not url.startswith(("http://", "https://")) or not urlsplit(url).hostname:
        raise ValueError
    return url


def _without_user(url: str) -> str:
    # S3 has no use for user:password@, and the URL is shown in logs. Passwords may have any character, so whatever
    # comes before the last @ goes, but for what can be nothing else than a scheme.
    scheme, separator, rest = url.partition("://")
    if not separator or not scheme.isalnum():
        return url.rpartition("@")[2]
    return scheme + separator + rest.rpartition("@")[2]


def _temporary_directory() -> str:
    """Return what `tempfile.gettempdir` does, which takes 4 ms to import, but not if this is what it looks at first."""
    first = Path(next(filter(None, map(os.environ.get, ("TMPDIR", "TEMP", "TMP"))), "/tmp"))
    if first.is_absolute() and first.is_dir() and os.access(first, os.W_OK | os.X_OK):
        return str(first)
    import tempfile

    return tempfile.gettempdir()


TEXT = Kind("text", str)
PORT = Kind("a port number, or 0 for none", _port)
BYTES = Kind("a number of bytes, such as 1073741824, 512M or 1.5G", _bytes)
SECONDS = Kind("a number of seconds", _seconds)
COUNT = Kind("a whole number above 0", _count)
COUNT_OR_NONE = Kind("a whole number", _count_or_none)
SIZES = Kind("whole numbers that increase, such as 1,8,32", _sizes)
PROPERTIES = Kind('OpenVINO\'s properties, such as {"NUM_STREAMS": 2}', _properties)
REQUESTS = Kind(f"a whole number up to {MAX_REQUESTS}", _requests)
LABELS = Kind('versions by label, such as {"stable": 1, "canary": 2}', _labels)
LEVEL = Kind(f"one of {', '.join(LOG_LEVELS)}", _level)
CLIENT = Kind(f"one of {', '.join(CLIENTS)}", _client)
FLAG = Kind("true or false", _flag)
FILE_NAME = Kind("a file's name", _file_name)
POLICY = Kind('{"latest": {"num_versions": 2}}, {"all": {}} or {"specific": {"versions": [1, 3]}}', parse_policy)
ENDPOINT = Kind("an http:// or https:// URL", _endpoint, _without_user)


def option(
    kind: Kind, default: Any, text: str, *, variables: tuple[str, ...] = (), aliases: tuple[str, ...] = ()
) -> Any:
    """Define a field.

    Args:
        variables: read where neither its flag nor its own variable is given.
        aliases: what other servers call the flag.
    """
    return field(default=default, metadata={"kind": kind, "help": text, "variables": variables, "aliases": aliases})


@dataclass(frozen=True, kw_only=True)
class Settings:
    model_name: str = option(TEXT, "default", "name that clients use for the model")
    model_path: str = option(
        TEXT,
        "",
        "where its versions are: a directory, file:///dir, s3://bucket/prefix, gs://… or az://container/…",
        aliases=("model_base_path",),
    )
    version_labels: Mapping[str, int] | None = option(LABELS, None, "names for versions, in clients' requests")
    model_config_file: str = option(
        TEXT,
        "",
        "file with several models: TensorFlow Serving's text or OpenVINO Model Server's JSON",
        aliases=("config_path",),
    )
    model_config_file_poll_wait_seconds: float = option(
        SECONDS, 0.0, "seconds between two looks at that file for changes; 0 for none"
    )
    allow_version_labels_for_unavailable_models: bool = option(
        FLAG, False, "whether a reload may give a label to a version that is not available, to apply when it is"
    )
    model_version_policy: VersionPolicy | None = option(
        POLICY,
        None,
        "which of its versions to serve, as OpenVINO Model Server or TensorFlow Serving has it; default all",
    )
    file_system_poll_wait_seconds: float = option(
        SECONDS, LISTING_TTL, "seconds for which a listing of the versions is believed; 0 for ever"
    )
    ready_marker: str = option(
        FILE_NAME, "", "file that a version must have to be served, such as _SUCCESS; written last by whoever uploads"
    )
    load_timeout: float = option(SECONDS, 60.0, "seconds that a request waits for its model before it gets a 503")
    port: int = option(PORT, 8500, "gRPC port; 0 for none")
    rest_port: int = option(PORT, 8501, "REST port; 0 for none", variables=("PORT",), aliases=("rest_api_port",))
    grpc_bind_address: str = option(TEXT, "0.0.0.0", "address that gRPC listens on")
    rest_bind_address: str = option(TEXT, "0.0.0.0", "address that REST listens on")
    grpc_socket_path: str = option(TEXT, "", "UNIX socket that gRPC listens on, besides its port")
    grpc_reflection: bool = option(FLAG, False, "whether gRPC tells what it serves to tools such as grpcurl")
    ssl_config_file: str = option(
        TEXT, "", "TensorFlow Serving's text file with gRPC's key and certificate, which makes its port TLS"
    )
    grpc_tls_key_file: str = option(TEXT, "", "PEM file with gRPC's private key; with the next this makes its port TLS")
    grpc_tls_cert_file: str = option(TEXT, "", "PEM file with gRPC's certificate and its chain")
    grpc_tls_client_ca_file: str = option(
        TEXT, "", "PEM file with the authorities whose clients alone may call; without it any client may"
    )
    enable_serialization_as_tensor_content: bool = option(
        FLAG, False, "whether gRPC answers in tensor_content and not in the field of the dtype"
    )
    tensor_content_from: int = option(
        BYTES, 0, "bytes from which on a tensor in a gRPC answer is in tensor_content; 0 for none"
    )
    rest_api_enable_cors_support: bool = option(FLAG, False, "whether pages of other origins may call REST")
    rest_api_timeout_in_ms: int = option(
        COUNT_OR_NONE, 30000, "milliseconds that a REST request has from when its model is there; 0 for no end"
    )
    enable_model_warmup: bool = option(
        FLAG, True, "whether the requests in a version's assets.extra/tf_serving_warmup_requests are run as it loads"
    )
    num_request_iterations_for_warmup: int = option(COUNT, 1, "how often each of those requests is run")
    enable_signature_warmup: bool = option(
        FLAG, True, "whether a version without such requests runs zeros in the shapes of its signature as it loads"
    )
    enable_batching: bool = option(FLAG, False, "whether requests that wait are run together")
    batching_parameters_file: str = option(TEXT, "", "TensorFlow Serving's text file with the next six parameters")
    max_batch_size: int = option(COUNT, 1000, "examples in a batch at most")
    batch_timeout_micros: int = option(COUNT_OR_NONE, 0, "microseconds that a request waits for others to come")
    max_enqueued_batches: int = option(COUNT, 10, "batches that wait at most; further requests are refused with 503")
    num_batch_threads: int = option(
        COUNT_OR_NONE, 0, "batches of one model run at a time; 0 for as many as the engine runs at best"
    )
    allowed_batch_sizes: tuple[int, ...] = option(
        SIZES, (), "sizes that batches are padded to, the last of which is max_batch_size"
    )
    pad_variable_length_inputs: bool = option(
        FLAG, False, "whether inputs of different lengths are padded and run together"
    )
    enable_per_model_batching_parameters: bool = option(
        FLAG, False, "whether a version's own batching_params.pbtxt counts"
    )
    workers: int = option(
        COUNT_OR_NONE, 1, "processes that serve on the same ports and share memory and CPUs; 0 for one per CPU"
    )
    plugin_config: Mapping[str, str] | None = option(
        PROPERTIES, None, "properties that models are compiled with, before those that the CPUs suggest"
    )
    nireq: int = option(REQUESTS, 0, "infer requests of each model; 0 for what keeps the engine busy")
    compiled_cache: bool = option(
        FLAG, True, "whether compiled models are used, from beside a model and from the cache directory, and kept there"
    )
    keep_compiled: bool = option(
        FLAG, True, "whether what is compiled here is kept in the cache directory, if compiled models are used"
    )
    log_level: str = option(LEVEL, "INFO", LEVEL.wants)
    cache_dir: str = option(
        TEXT, str(Path(_temporary_directory(), f"decant-{os.geteuid()}")), "directory for downloads, made if missing"
    )
    disk_budget: int = option(
        BYTES, 0, "bytes of downloads to keep; 0 for what is free and held there, or less if that disk is memory"
    )
    memory_budget: int = option(
        BYTES,
        0,
        "bytes of loaded models to keep; 0 for 70 percent of the memory there is, or 40 if the disk takes it too",
    )
    # Forty 224x224 images as JSON.
    max_body_size: int = option(BYTES, 64 << 20, "bytes that the body of a REST request may have")
    # Each holds its body in memory, and a caller who waits longer than this many others is better told so.
    max_in_flight: int = option(
        COUNT, 256, "requests at a time, for REST and for gRPC each; further ones are refused with 503"
    )
    # docker stop and Cloud Run kill ten seconds after SIGTERM.
    shutdown_timeout: float = option(SECONDS, 8.0, "seconds that requests in flight have to finish after SIGTERM")
    s3_endpoint: str = option(
        ENDPOINT,
        "",
        "URL of an S3 server other than Amazon's",
        variables=("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "S3_ENDPOINT"),
    )

    storage_client: str = option(
        CLIENT, "auto", "what reads s3://, gs:// and az://: obstore, the clouds' SDKs, or whichever is quicker and can"
    )
    storage_anonymous: bool = option(FLAG, False, "whether to read s3://, gs:// and az:// without credentials")

    def storage_options(self) -> StorageOptions:
        return StorageOptions(
            s3_endpoint=self.s3_endpoint,
            client=self.storage_client,
            is_anonymous=self.storage_anonymous,
            environ=dict(os.environ),
        )

    def require_models(self) -> None:
        if not self.model_path and not self.model_config_file:
            raise SettingsError(
                f"no model is given; want --model_path or {_variable('model_path')}, or --model_config_file or "
                f"{_variable('model_config_file')}"
            )
        if not self.model_name.isprintable():
            raise SettingsError(f"model_name is {self.model_name!r}; want a name that can be printed")
        if self.model_config_file:
            self._refuse_beside("model_config_file", _OF_ONE_MODEL)
        elif self.model_config_file_poll_wait_seconds:
            raise SettingsError("model_config_file_poll_wait_seconds is given without model_config_file; want both")

    def require_batching(self) -> None:
        if self.batching_parameters_file:
            self._refuse_beside("batching_parameters_file", OF_BATCHING)
        given = self.given((*OF_BATCHING, "batching_parameters_file", "enable_per_model_batching_parameters"))
        if given and not self.enable_batching:
            raise SettingsError(f"{given[0]} is given without enable_batching; want both")

    def require_ports(self) -> None:
        if not self.port and not self.rest_port and not self.grpc_socket_path:
            raise SettingsError("port and rest_port are both 0, and there is no grpc_socket_path; want one of them")
        if self.port and self.port == self.rest_port:
            raise SettingsError(f"port and rest_port cannot have the same values: {self.port}")

        tls = self.given(OF_TLS)
        if tls and not self.port:
            raise SettingsError(f"{tls[0]} is given without a gRPC port; a UNIX socket is in plain text")

    def require_workers(self) -> None:
        if self.grpc_socket_path:
            raise SettingsError(
                f"grpc_socket_path is given with workers {self.workers}; want workers 1, as a socket is one process's"
            )

    def addresses(self) -> list[tuple[str, int]]:
        """Return the addresses and ports that are to be listened on."""
        pairs = ((self.rest_bind_address, self.rest_port), (self.grpc_bind_address, self.port))
        return [(address, port) for address, port in pairs if port]

    def given(self, names: Iterable[str]) -> list[str]:
        """Return which of the settings are not as they are by default."""
        return [name for name in names if getattr(self, name) != getattr(type(self), name)]

    def _refuse_beside(self, name: str, others: Collection[str]) -> None:
        for other in self.given(others):
            raise SettingsError(f"{name} and {other} are both given; want what the second says in the file")


def add_options(parser: argparse.ArgumentParser, *, only: Collection[str] = ()) -> None:
    """Give the parser a flag for each setting, or for those named, spelt with underscores and with hyphens."""
    for setting in _settings():
        if only and setting.name not in only:
            continue
        variables = ", ".join((_variable(setting.name), *setting.metadata["variables"]))
        default = "" if setting.default in ("", 0, None) else f"; default {setting.default}"
        parser.add_argument(
            *dict.fromkeys(f"--{name}" for name in _spellings(setting)),
            dest=setting.name,
            metavar=setting.name.rpartition("_")[2].upper(),
            nargs="?" if setting.metadata["kind"] is FLAG else None,
            const=_SWITCHED_ON if setting.metadata["kind"] is FLAG else None,
            help=f"{setting.metadata['help']} [{variables}{default}]",
        )


def read_flags(arguments: Sequence[str]) -> dict[str, str | None] | None:
    """Return the flags by field name, as typed, or None if argparse is to say what is meant, or wrong.

    A server starts with this: with a flag for each setting, argparse takes a tenth of a small model's start.
    """
    names = {f"--{name}": setting for setting in _settings() for name in _spellings(setting)}
    flags: dict[str, str | None] = {}
    left = list(reversed(arguments))
    while left:
        flag, equals, text = left.pop().partition("=")
        if flag not in names:
            return None
        setting = names[flag]
        # A value that looks like a flag may be one.
        if not equals and left and not left[-1].startswith("-"):
            text = left.pop()
        elif not equals and setting.metadata["kind"] is FLAG:
            text = _SWITCHED_ON
        elif not equals:
            return None
        flags[setting.name] = text
    return flags


def read_settings(flags: Mapping[str, str | None], defaults: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings that flags and the environment make.

    Args:
        flags: by field name, as typed; None for those not given.
        defaults: a platform's, where they are not the field's own.

    Raises:
        SettingsError: a value cannot be read.
    """
    values: dict[str, Any] = dict(defaults or {})
    for setting in _settings():
        source, text = _given(setting, flags)
        if text:
            values[setting.name] = _parse(setting, source, text)
    if not values.keys() & {"model_path", "model_config_file"}:
        values |= _image_model(values)
    return Settings(**values)


def is_on_cloud_run() -> bool:
    """Whether whatever is written to disk takes memory, which cannot be told there by looking at the disk."""
    return "K_SERVICE" in os.environ


def initialization_type() -> str:
    """Return how Lambda starts this environment: on-demand, provisioned-concurrency, snap-start or what is to come."""
    return os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")


def worker_channel() -> int | None:
    """Return the descriptor of a worker's socket to its supervisor, or None if this process is on its own."""
    descriptor = os.environ.get(_WORKER)
    return int(descriptor) if descriptor else None


def environment_of_worker(channel: int) -> dict[str, str]:
    return {**os.environ, _WORKER: str(channel)}


def lambda_memory() -> int:
    """Return the memory of this Lambda function in MB, which buys its CPU; 0 if it is none."""
    memory = os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "")
    return int(memory) if memory.isdecimal() else 0


def _image_model(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the one model of TensorFlow Serving's image, which is ``$MODEL_BASE_PATH/$MODEL_NAME``."""
    base, name = os.environ.get("MODEL_BASE_PATH"), values.get("model_name") or os.environ.get("MODEL_NAME")
    return {"model_name": name, "model_path": f"{base.rstrip('/')}/{name}"} if base and name else {}


def _settings() -> Iterator[Field[Any]]:
    return iter(fields(Settings))


def _spellings(setting: Field[Any]) -> Iterator[str]:
    for name in (setting.name, *setting.metadata["aliases"]):
        yield name
        yield name.replace("_", "-")


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _given(setting: Field[Any], flags: Mapping[str, str | None]) -> tuple[str, str | None]:
    """Return what was given for a setting and where; an empty variable is as good as none."""
    flag = flags.get(setting.name)
    if flag is not None:
        return f"--{setting.name}", flag
    for variable in (_variable(setting.name), *setting.metadata["variables"]):
        if text := os.environ.get(variable):
            return variable, text
    return setting.name, None


def _parse(setting: Field[Any], source: str, text: str) -> Any:
    kind: Kind = setting.metadata["kind"]
    try:
        return kind.parse(text)
    except (ValueError, OverflowError):
        raise SettingsError(f"{source} is {kind.quote(text)[:100]!r}; want {kind.wants}") from None
