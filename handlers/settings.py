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
from runtime.options import MAX_REQUESTS

if TYPE_CHECKING:
    import argparse

PREFIX = "DECANT_"
_WORKER = "_DECANT_WORKER"
CLIENTS = ("auto", "sdk", "obstore")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
# What OpenVINO Model Server and Lambda call them.
_LEVELS = {"TRACE": "DEBUG", "WARN": "WARNING", "FATAL": "ERROR"}
LOG_FORMATS = ("auto", "text", "json")
_SOURCES = ("model_path", "model_name")
_OF_STATEFUL = ("idle_sequence_cleanup", "low_latency_transformation", "max_sequence_number")
OF_MODEL = (
    *("shape", "batch_size", "layout", "target_device", "allow_cache", "mean", "scale", "color_format", "precision"),
    *("stateful", *_OF_STATEFUL),
)
OF_ONE_MODEL = ("model_version_policy", "version_labels", *OF_MODEL)
_OF_ALL_MODELS = ("plugin_config", "nireq")
"""With a file they hold for all models in it, below each one's own; without, they are those of the one model."""
_WITHOUT_EFFECT = {
    "PLUGIN_DIR": "OpenVINO's plugins are those of its package",
    "REST_REQUESTS_QUEUE_SIZE": "connections wait as long as they like, and max_in_flight bounds requests",
    "ENGINE_REQUESTS_QUEUE_SIZE": "max_in_flight bounds requests, and max_enqueued_batches those to be batched",
    "ENGINE_REQUESTS_QUEUE_TIMEOUT": "rest_api_timeout_in_ms and gRPC's deadlines end requests that wait",
    "S3_SIGNATURE": "requests to S3 have signatures of version 4",
}
"""Variables of OpenVINO Model Server and of ie_serving."""
_REST_WORKERS = range(2, 10_001)
"""OpenVINO Model Server's limits."""
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
    """A value that cannot be; the message names the setting, the value and what is wanted.

    Args:
        message: as the operator has it.
        public: as clients have it, who are not told where models and files are; the same if there is none of it.
    """

    def __init__(self, message: str, public: str | None = None) -> None:
        super().__init__(message)
        self.public = message if public is None else public


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


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in map(str.strip, text.split(",")) if name)


def _statuses(text: str) -> tuple[range, ...]:
    found = []
    for part in text.replace(" ", "").split(","):
        first, dash, last = part.partition("-")
        statuses = range(int(first), int(last if dash else first) + 1)
        if not statuses or statuses[0] < 400 or statuses[-1] > 599:
            raise ValueError
        found.append(statuses)
    return tuple(found)


def _base_path(text: str) -> str:
    path = text.rstrip("/")
    if not path.startswith("/") or "//" in path or not path.isascii() or not path.isprintable() or "?" in path:
        raise ValueError
    return path


def _outputs(text: str) -> tuple[str, ...]:
    urls = tuple(url.rstrip("/") for url in _names(text))
    for url in urls:
        scheme, separator, rest = url.partition("://")
        if scheme not in ("s3", "gs", "az", "file") or not separator:
            raise ValueError
        parts = (rest.removeprefix("/") if scheme == "file" else rest).split("/")
        # Not of a whole bucket by a slip of the pen: what may write there may replace models. A host may be before it.
        fewest = 1 if scheme == "file" else 3 if ":" in parts[0] else 2
        if len(parts) < fewest or any(part in ("", ".", "..") for part in parts):
            raise ValueError
    return urls


def _channel_arguments(text: str) -> Mapping[str, int | str]:
    arguments: dict[str, int | str] = {}
    for pair in filter(None, text.split(",")):
        name, equals, value = pair.partition("=")
        if not name or not equals or not value:
            raise ValueError
        # gRPC has numbers and texts, and takes neither for the other.
        arguments[name] = _int32(value) if value.removeprefix("-").isdecimal() else value
    return arguments


def _int32(text: str) -> int:
    number = int(text)
    if not -(1 << 31) <= number < 1 << 31:
        raise ValueError
    return number


def _labels(text: str) -> Mapping[str, int]:
    labels = json.loads(text)
    if not isinstance(labels, dict) or not all(labels):
        raise ValueError
    # True is an int to Python.
    if not all(type(version) is int and 0 <= version <= MAX_VERSION for version in labels.values()):
        raise ValueError
    return labels


def _properties(text: str) -> Mapping[str, str]:
    # Here, as few give any.
    from handlers.model_options import parse_plugin_config

    return dict(parse_plugin_config(text))


def _requests(text: str) -> int:
    requests = int(text)
    if not 0 <= requests <= MAX_REQUESTS:
        raise ValueError
    return requests


def _level(text: str) -> str:
    level = _LEVELS.get(text.upper(), text.upper())
    if level not in LOG_LEVELS:
        raise ValueError
    return level


def _format(text: str) -> str:
    if text.lower() not in LOG_FORMATS:
        raise ValueError
    return text.lower()


def _client(text: str) -> str:
    if text not in CLIENTS:
        raise ValueError
    return text


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise ValueError
    return text.lower() in ("true", "1")


def _serialization(text: str) -> bool:
    # The functions of ie_serving that its variable names.
    functions = {
        "_prepare_output_with_make_tensor_proto": True,
        "_prepare_output_as_AppendArrayToTensorProto": False,
    }
    return functions[text] if text in functions else _flag(text)


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

    try:
        return tempfile.gettempdir()
    # Nothing can be written here. Who needs to will say so, and `decant doctor` before that.
    except FileNotFoundError:
        return "/tmp"


TEXT = Kind("text", str)
PORT = Kind("a port number, or 0 for none", _port)
BYTES = Kind("a number of bytes, such as 1073741824, 512M or 1.5G", _bytes)
SECONDS = Kind("a number of seconds", _seconds)
MINUTES = Kind("a number of minutes", _seconds)
CHANNEL_ARGUMENTS = Kind("name=value,name=value", _channel_arguments)
COUNT = Kind("a whole number above 0", _count)
COUNT_OR_NONE = Kind("a whole number", _count_or_none)
NAMES = Kind("names, such as a,b", _names)
SIZES = Kind("whole numbers that increase, such as 1,8,32", _sizes)
PROPERTIES = Kind('OpenVINO\'s properties, such as {"NUM_STREAMS": 2}', _properties)
REQUESTS = Kind(f"a whole number up to {MAX_REQUESTS}", _requests)
LABELS = Kind('versions by label, such as {"stable": 1, "canary": 2}', _labels)
LEVEL = Kind(f"one of {', '.join(LOG_LEVELS)}", _level)
LOG_FORMAT = Kind(f"one of {', '.join(LOG_FORMATS)}", _format)
CLIENT = Kind(f"one of {', '.join(CLIENTS)}", _client)
FLAG = Kind("true or false", _flag)
SERIALIZATION = Kind(FLAG.wants, _serialization)
SWITCHES = (FLAG, SERIALIZATION)
"""What needs no value on a command line."""
FILE_NAME = Kind("a file's name", _file_name)
STATUSES = Kind("statuses from 400 to 599, such as 500-599 or 429,500-599", _statuses)
BASE_PATH = Kind("the beginning of a path, such as /ml", _base_path)
OUTPUTS = Kind("URLs below which to write, such as s3://bucket/answers", _outputs)
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
    model_config: str = option(
        TEXT,
        "",
        "the text of such a file, for platforms that have variables and no files",
    )
    model_config_file_poll_wait_seconds: float | None = option(
        SECONDS,
        None,
        "seconds between two looks at that file for changes, 0 for none; default none if it is text, and "
        "file_system_poll_wait_seconds if it is JSON",
    )
    allow_version_labels_for_unavailable_models: bool = option(
        FLAG, False, "whether a reload may give a label to a version that is not available, to apply when it is"
    )
    model_version_policy: VersionPolicy | None = option(
        POLICY,
        None,
        "which of its versions to serve, as OpenVINO Model Server or TensorFlow Serving has it; default all",
    )
    file_system_poll_wait_seconds: float | None = option(
        SECONDS,
        None,
        "seconds between two looks for new versions; 0 for none after the first; default as requests come, "
        f"{LISTING_TTL:.0f} s after the last look at the earliest",
        variables=("FILE_SYSTEM_POLL_WAIT_SECONDS",),
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
        SERIALIZATION,
        False,
        "whether gRPC answers in tensor_content and not in the field of the dtype",
        variables=("SERIALIZATION_FUNCTION",),
    )
    tensor_content_from: int = option(
        BYTES, 0, "bytes from which on a tensor in a gRPC answer is in tensor_content; 0 for none"
    )
    model_control: bool = option(
        FLAG, True, "whether clients may have models loaded and unloaded, by the Open Inference Protocol; not on Lambda"
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
    shape: str = option(TEXT, "", 'the model\'s shape: auto, (1,3,224,224), (1,3,100:200,-1), or {"input": "…"}')
    batch_size: str = option(TEXT, "", "the model's batch size: a number, -1 for any, a range such as 1:8, or auto")
    layout: str = option(TEXT, "", 'layout of what clients send and of the model: NHWC:NCHW, or {"input": "…"}')
    target_device: str = option(TEXT, "", "what the model runs on, as OpenVINO names it; default CPU")
    allow_cache: bool = option(FLAG, False, "whether a model of shape auto may be imported as it was compiled before")
    mean: str = option(TEXT, "", "what is subtracted from an input: 127.5, or one number for each channel")
    scale: str = option(TEXT, "", "what an input is divided by after that: 127.5, or one number for each channel")
    color_format: str = option(TEXT, "", "colours that clients send and that the model wants, such as RGB:BGR")
    precision: str = option(TEXT, "", "types that clients send and that the model wants, such as uint8:fp32")
    stateful: bool = option(FLAG, False, "whether the model keeps state from one request of a sequence to the next")
    idle_sequence_cleanup: bool = option(FLAG, True, "whether sequences of it that stand still are removed")
    low_latency_transformation: bool = option(FLAG, False, "whether LowLatency2 is applied to it, for loops' state")
    max_sequence_number: str = option(TEXT, "", "sequences of it at a time; default 500")
    sequence_cleaner_poll_wait_minutes: float = option(
        MINUTES, 5.0, "minutes between two looks for idle sequences, which are removed at the second; 0 for none"
    )
    cpu_extension: str = option(
        TEXT, "", "library with operations for OpenVINO's CPU plugin", variables=("CPU_EXTENSION",)
    )
    lazy: bool | None = option(
        FLAG, None, "whether models are loaded by the first request for them; default only those of a file on Lambda"
    )
    preload: tuple[str, ...] = option(NAMES, (), "models that are loaded at the start all the same")
    metrics_enable: bool = option(FLAG, False, "whether REST answers /metrics, for Prometheus")
    metrics_list: tuple[str, ...] = option(
        NAMES, (), "the only families of metrics there are to be; default OpenVINO Model Server's"
    )
    grpc_workers: int = option(COUNT_OR_NONE, 1, "gRPC servers that listen on the port; at most one per CPU")
    grpc_max_threads: int = option(COUNT_OR_NONE, 0, "threads that gRPC calls are answered in; 0 for one per call")
    grpc_channel_arguments: Mapping[str, int | str] | None = option(
        CHANNEL_ARGUMENTS, None, "gRPC's settings, such as grpc.max_connection_age_ms=60000"
    )
    rest_workers: int = option(COUNT_OR_NONE, 0, "threads that REST requests are answered in; 0 for one per request")
    custom_node_resources_cleaner_interval_seconds: float = option(
        SECONDS, 1.0, "of OpenVINO Model Server's custom nodes; has no effect"
    )
    compiled_cache: bool = option(
        FLAG, True, "whether compiled models are used, from beside a model and from the cache directory, and kept there"
    )
    keep_compiled: bool = option(
        FLAG, True, "whether what is compiled here is kept in the cache directory, if compiled models are used"
    )
    lambda_error_statuses: tuple[range, ...] = option(
        STATUSES,
        (),
        "answers of a Lambda function that are errors of it, for its metric Errors; clients then get a 502 and no text",
    )
    lambda_outputs: tuple[str, ...] = option(
        OUTPUTS, (), "where a Lambda function may write answers, if a message names a place below one of these"
    )
    lambda_deadline_margin: float = option(
        SECONDS, 1.0, "seconds before a Lambda function's time is over, or its gateway's, when it answers with 503"
    )
    lambda_gateway_timeout: float | None = option(
        SECONDS,
        None,
        "seconds that what is before a Lambda function waits for it, 0 for as long as it has; default 30 for HTTP "
        "APIs, 29 for REST APIs, 60 for load balancers and 0 for its URL",
    )
    lambda_base_path: str = option(
        BASE_PATH, "", "what paths begin with before Decant's own, such as a load balancer's or a custom domain's"
    )
    log_level: str = option(LEVEL, "INFO", LEVEL.wants, variables=("LOG_LEVEL", "AWS_LAMBDA_LOG_LEVEL"))
    log_format: str = option(
        LOG_FORMAT, "auto", "text, json (an object per line), or auto: json on serverless platforms and text elsewhere"
    )
    log_path: str = option(TEXT, "", "file that log lines are appended to as well", variables=("LOG_PATH",))
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

    @property
    def listing_ttl(self) -> float:
        """Seconds for which a listing of the versions is believed; 0 for ever."""
        given = self.file_system_poll_wait_seconds
        return LISTING_TTL if given is None else given

    @property
    def has_configuration(self) -> bool:
        """Whether a file, or the text of one, says what the models are, and flags do not."""
        return bool(self.model_config_file or self.model_config)

    def require_models(self) -> None:
        if not self.model_path and not self.has_configuration:
            raise SettingsError(
                "Use config_path or model_path with model_name: "
                f"no model is given; want --model_path or {_variable('model_path')}, or --model_config_file or "
                f"{_variable('model_config_file')}, or {_variable('model_config')}"
            )
        if not self.model_name.isprintable():
            raise SettingsError(f"model_name is {self.model_name!r}; want a name that can be printed")
        if self.model_config and self.model_config_file:
            raise SettingsError("model_config and model_config_file are both given; want one of them")
        if self.has_configuration:
            source = "model_config_file" if self.model_config_file else "model_config"
            self._refuse_beside(source, _SOURCES, prefix="Use either config_path or model_path with model_name")
            self._refuse_beside(
                source, OF_ONE_MODEL, prefix="Model parameters in CLI are exclusive with the config file"
            )
        if not self.model_config_file and self.model_config_file_poll_wait_seconds:
            raise SettingsError("model_config_file_poll_wait_seconds is given without model_config_file; want both")
        given = self.given(_OF_STATEFUL)
        if given and not self.stateful:
            raise SettingsError(
                "Setting low_latency_transformation, max_sequence_number and idle_sequence_cleanup require setting "
                f"stateful flag for the model: {given[0]} is given without stateful"
            )

        if self.metrics_list and not self.metrics_enable:
            raise SettingsError("metrics_enable setting is missing, required when metrics_list is provided")
        if self.cpu_extension and not Path(self.cpu_extension).is_file():
            raise SettingsError(
                "File path provided as an --cpu_extension parameter does not exists in the filesystem: "
                f"{self.cpu_extension}"
            )

    def model_fields(self) -> dict[str, Any]:
        """Return what is given of the one model's parameters, by their names in config.json."""
        return {name: getattr(self, name) for name in self.given((*OF_MODEL, *_OF_ALL_MODELS))}

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
        self.require_metrics_port(self.metrics_enable)
        self._require_threads()
        tls = self.given(OF_TLS)
        if tls and not self.port:
            raise SettingsError(f"{tls[0]} is given without a gRPC port; a UNIX socket is in plain text")

    def require_metrics_port(self, are_enabled: bool) -> None:
        if are_enabled and not self.rest_port:
            raise SettingsError("rest_port setting is missing, metrics are enabled on rest port")

    def _require_threads(self) -> None:
        if not 1 <= self.grpc_workers <= _cpu_count():
            raise SettingsError(
                f"grpc_workers count should be from 1 to CPU core count : {_cpu_count()}; it is {self.grpc_workers}"
            )
        if self.rest_workers and self.rest_workers not in _REST_WORKERS:
            raise SettingsError(
                f"rest_workers count should be from 2 to {_REST_WORKERS[-1]}; it is {self.rest_workers}"
            )
        if self.rest_workers and not self.rest_port:
            raise SettingsError(
                "rest_workers is set but rest_port is not set. rest_port is required to start rest servers"
            )

    def require_workers(self) -> None:
        if self.grpc_socket_path:
            raise SettingsError(
                f"grpc_socket_path is given with workers {self.workers}; want workers 1, as a socket is one process's"
            )
        if self.stateful:
            raise SettingsError(
                f"stateful is given with workers {self.workers}; want workers 1, as a sequence's state is one process's"
            )

    def addresses(self) -> list[tuple[str, int]]:
        """Return the addresses and ports that are to be listened on."""
        pairs = ((self.rest_bind_address, self.rest_port), (self.grpc_bind_address, self.port))
        return [(address, port) for address, port in pairs if port]

    def given(self, names: Iterable[str]) -> list[str]:
        """Return which of the settings are not as they are by default."""
        return [name for name in names if getattr(self, name) != getattr(type(self), name)]

    def _refuse_beside(self, name: str, others: Collection[str], prefix: str = "") -> None:
        for other in self.given(others):
            raise SettingsError(
                f"{prefix and f'{prefix}: '}{name} and {other} are both given; want what the second says in the file"
            )


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
            nargs="?" if setting.metadata["kind"] in SWITCHES else None,
            const=_SWITCHED_ON if setting.metadata["kind"] in SWITCHES else None,
            help=f"{setting.metadata['help']} [{variables}{default}]",
        )


def kinds() -> dict[str, Kind]:
    """Return how each setting is read, by its name."""
    return {setting.name: setting.metadata["kind"] for setting in _settings()}


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
        elif not equals and setting.metadata["kind"] in SWITCHES:
            text = _SWITCHED_ON
        elif not equals:
            return None
        flags[setting.name] = text
    return flags


def read_settings(
    flags: Mapping[str, str | None], defaults: Mapping[str, Any] | None = None, *, passed_over: Collection[str] = ()
) -> Settings:
    """Return the settings that flags and the environment make.

    Args:
        flags: by field name, as typed; None for those not given.
        defaults: a platform's, where they are not the field's own.
        passed_over: variables that do not count.

    Raises:
        SettingsError: a value cannot be read.
    """
    values: dict[str, Any] = dict(defaults or {})
    for setting in _settings():
        source, text = _given(setting, flags, passed_over)
        if text:
            values[setting.name] = _parse(setting.metadata["kind"], source, text)
    if servers := os.environ.get("GRPC_SERVERS"):
        # OpenVINO Model Server minds it more than its flag, as far as there are CPUs.
        values["grpc_workers"] = min(_parse(COUNT, "GRPC_SERVERS", servers), _cpu_count())
    if not values.keys() & {"model_path", "model_config_file", "model_config"}:
        values |= _image_model(values)
    return Settings(**values)


def is_on_cloud_run() -> bool:
    """Whether whatever is written to disk takes memory, which cannot be told there by looking at the disk."""
    return "K_SERVICE" in os.environ and not is_on_kubernetes()


def is_on_kubernetes() -> bool:
    """Whether this is a pod, as one of Knative's or KServe's is, whose disk is one."""
    return "KUBERNETES_SERVICE_HOST" in os.environ


def has_port_of_platform() -> bool:
    """Whether Cloud Run or Knative says in PORT where it will ask."""
    return "K_SERVICE" in os.environ


def is_serverless() -> bool:
    """Whether this runs on Lambda, Cloud Run, Knative or Azure Container Apps, which read what is logged."""
    return not os.environ.keys().isdisjoint(("AWS_LAMBDA_FUNCTION_NAME", "K_SERVICE", "CONTAINER_APP_NAME"))


def logs_as_lambda_does() -> bool:
    """Whether this function is configured for JSON, which Lambda's runtime client then writes itself."""
    return os.environ.get("AWS_LAMBDA_LOG_FORMAT", "").upper() == "JSON"


def without_effect(settings: Settings) -> Iterator[str]:
    """Yield what is given for the sake of OpenVINO Model Server, or its ancestor, and means nothing here."""
    if settings.given(("custom_node_resources_cleaner_interval_seconds",)):
        yield "custom_node_resources_cleaner_interval_seconds has no effect, as there are no custom nodes yet"
    for variable, reason in _WITHOUT_EFFECT.items():
        if os.environ.get(variable):
            yield f"{variable} has no effect: {reason}"


def initialization_type() -> str:
    """Return how Lambda starts this environment: on-demand, provisioned-concurrency, snap-start or what is to come."""
    return os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")


def silence_grpc() -> None:
    """Have gRPC's own library write nothing to standard error, unless somebody has set how much. Before its import."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


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


def _cpu_count() -> int:
    return len(os.sched_getaffinity(0))


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


def _given(
    setting: Field[Any], flags: Mapping[str, str | None], passed_over: Collection[str]
) -> tuple[str, str | None]:
    """Return what was given for a setting and where; an empty variable is as good as none."""
    flag = flags.get(setting.name)
    if flag is not None:
        return f"--{setting.name}", flag
    for variable in (_variable(setting.name), *setting.metadata["variables"]):
        text = os.environ.get(variable)
        # Kubernetes sets DECANT_PORT=tcp://10.0.0.1:8500 wherever there is a Service of that name.
        if text and variable not in passed_over and not (setting.metadata["kind"] is PORT and "://" in text):
            return variable, text
    return setting.name, None


def _parse(kind: Kind, source: str, text: str) -> Any:
    try:
        return kind.parse(text)
    except (ValueError, OverflowError):
        raise SettingsError(f"{source} is {kind.quote(text)[:100]!r}; want {kind.wants}") from None
