"""Which models to serve: from flags, from a file in either server's format, or from a message.

TensorFlow Serving's files are protobuf's text of a ModelServerConfig, OpenVINO Model Server's are JSON. What neither
Decant nor its caller can mean is an error that names it: nothing that is written is passed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn
from urllib.parse import unquote, urlsplit

from handlers.settings import Settings, SettingsError
from model_cache.policy import MAX_VERSION, All, Latest, Specific, VersionPolicy, parse_policy
from model_cache.storage import BACKENDS, StorageOptions, open_storage
from runtime.errors import quoted

MAX_FILE = 1 << 20
"""Bytes that a file may have: some ten thousand models."""
PLATFORMS = ("", "tensorflow", "openvino")
"""Values of model_platform: both servers' files name their own, and models are what their files say."""
_URLS = tuple(filter(None, BACKENDS))

_AS_ALWAYS: Mapping[str, Sequence[object]] = {
    "batch_size": (0, "0"),
    "nireq": (0,),
    "target_device": ("CPU",),
    "plugin_config": ({},),
    "allow_cache": (False,),
    "stateful": (False,),
    "low_latency_transformation": (False,),
}
"""What OpenVINO Model Server's files may say of a model without asking for anything else than what is done anyway."""


class ModelConfig(NamedTuple):
    name: str
    base_path: str
    policy: VersionPolicy | None = None
    labels: Mapping[str, int] = MappingProxyType({})


def models_of(settings: Settings) -> list[ModelConfig]:
    """Return the one model that flags describe, or those of the file that they name.

    Raises:
        SettingsError: there is none, both are given, or the file is not what it should be.
        StorageUnavailable: the file is in a storage that cannot be read.
    """
    settings.require_models()
    if settings.model_config_file:
        return parse(settings.model_config_file, read(settings.model_config_file, settings.storage_options()))
    labels = settings.version_labels or {}
    return [ModelConfig(settings.model_name, settings.model_path, settings.model_version_policy, labels)]


def read(path: str, options: StorageOptions, setting: str = "model_config_file") -> bytes:
    """Return what is in a file, on disk or wherever models can be.

    Args:
        path: the file's, or its URL.
        options: how to read storages.
        setting: that names the file.

    Raises:
        SettingsError: there is no such file, or it is too large.
        StorageUnavailable: the storage cannot be read.
    """
    scheme = path.partition("://")[0].lower() if "://" in path else ""
    if scheme not in ("", "file"):
        return _bounded(path, _fetch(path, options, setting), setting)
    try:
        with Path(unquote(urlsplit(path).path) if scheme else path).open("rb") as file:
            return _bounded(path, file.read(MAX_FILE + 1), setting)
    except OSError as exc:
        raise SettingsError(f"cannot read {path}: {exc.strerror or exc}") from exc


def _fetch(url: str, options: StorageOptions, setting: str) -> bytes:
    where, _, name = url.rpartition("/")
    try:
        storage = open_storage(where, options)
    except ValueError as exc:
        raise SettingsError(f"{setting}: {exc}") from exc
    blob = next((blob for blob in storage.list(name) if blob.key == name), None)
    if blob is None:
        raise SettingsError(f"cannot read {url}: there is no such file")
    stop = min(blob.size, MAX_FILE + 1)
    return b"".join(storage.fetch(blob, 0, stop)) if stop else b""


def _bounded(path: str, content: bytes, setting: str) -> bytes:
    if len(content) > MAX_FILE:
        raise SettingsError(f"{setting}: {path} is larger than {MAX_FILE} bytes; want a file of that at most")
    return content


def parse(path: str, content: bytes) -> list[ModelConfig]:
    """Return the models in a file of either format, which one it is being told by what is in it.

    Raises:
        SettingsError: it is in neither, or describes what cannot be; with the file, the model and the field.
    """
    try:
        text = content.decode("utf-8-sig")
        if not text.strip():
            raise SettingsError("is empty; want model_config_list { config { name: ... base_path: ... } }, or JSON")
        return _parse_json(text) if text.lstrip().startswith("{") else _parse_text(text)
    except UnicodeDecodeError as exc:
        raise SettingsError(f"{path} has bytes that are no UTF-8 at {exc.start}; want text") from exc
    except SettingsError as exc:
        raise SettingsError(f"{path}: {exc}") from exc


def _parse_text(text: str) -> list[ModelConfig]:
    # Here, as only who has such a file needs them.
    try:
        from google.protobuf import text_format

        from runtime.codecs import schema
    except ModuleNotFoundError as exc:
        raise SettingsError(f"this needs {exc.name}, which is not installed; try: pip install 'decant[grpc]'") from exc
    message = schema.ModelServerConfig()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as exc:
        raise SettingsError(
            f"Error parsing text-format tensorflow.serving.ModelServerConfig: {quoted(_one_line(exc))}"
        ) from exc
    return from_message(message)


def from_message(message: Any) -> list[ModelConfig]:
    """Return the models of a ModelServerConfig.

    Raises:
        SettingsError: it describes what cannot be.
    """
    if message.WhichOneof("config") != "model_config_list":
        given = message.WhichOneof("config") or "nothing"
        raise SettingsError(f"{given} is given; want model_config_list")
    return _checked(
        [_from_model_config(number, config) for number, config in enumerate(message.model_config_list.config)]
    )


def _from_model_config(number: int, config: Any) -> ModelConfig:
    where = _where(number, config.name)
    if config.model_platform not in PLATFORMS:
        _refuse(where, "model_platform", config.model_platform, "tensorflow, openvino or nothing")
    if config.model_type not in (0, 1):
        _refuse(where, "model_type", config.model_type, "model_platform instead")
    if config.HasField("logging_config"):
        raise SettingsError(f"{where}: logging_config is given, and requests cannot be logged; want it left out")
    try:
        policy = _policy(config.model_version_policy)
    except ValueError as exc:
        raise SettingsError(f"{where}: model_version_policy: {exc}") from exc
    return ModelConfig(config.name, config.base_path, policy, dict(config.version_labels))


def _policy(message: Any) -> VersionPolicy | None:
    choice = message.WhichOneof("policy_choice")
    if choice == "latest":
        # As in TensorFlow Serving, where none is one.
        return Latest(message.latest.num_versions or 1)
    if choice == "specific":
        return Specific(frozenset(message.specific.versions))
    return All() if choice == "all" else None


def _parse_json(text: str) -> list[ModelConfig]:
    try:
        root = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as exc:
        raise SettingsError(f"{exc.lineno}:{exc.colno}: this is no JSON: {exc.msg}") from exc
    # Lists too deep, and numbers too long.
    except (RecursionError, ValueError) as exc:
        raise SettingsError(f"this is no configuration: {quoted(_one_line(exc))}") from exc
    for name, value in root.items():
        if name != "model_config_list" and value not in ([], {}):
            raise SettingsError(f"{quoted(name)} is not supported; want model_config_list alone")
    configs = root.get("model_config_list")
    if not isinstance(configs, list):
        _refuse("", "model_config_list", configs, 'a list of {"config": {"name": ..., "base_path": ...}}')
    return _checked([_from_entry(number, entry) for number, entry in enumerate(configs)])


def _from_entry(number: int, entry: Any) -> ModelConfig:
    if not isinstance(entry, dict) or list(entry) != ["config"] or not isinstance(entry["config"], dict):
        _refuse(_where(number, ""), "it", entry, '{"config": {"name": ..., "base_path": ...}}')
    fields = dict(entry["config"])
    where = _where(number, fields.get("name"))
    name, base_path = (_text(where, fields, name_of) for name_of in ("name", "base_path"))
    policy = _json_policy(where, fields.pop("model_version_policy", None))
    labels = _json_labels(where, fields.pop("version_labels", {}))
    for name_of, value in fields.items():
        _check_as_always(where, name_of, value)
    return ModelConfig(name, base_path, policy, labels)


def _text(where: str, fields: dict[str, Any], name: str) -> str:
    value = fields.pop(name, "")
    if not isinstance(value, str):
        _refuse(where, name, value, "text")
    return value


def _json_policy(where: str, value: object) -> VersionPolicy | None:
    if value is None:
        return None
    try:
        return parse_policy(json.dumps(value))
    except ValueError as exc:
        raise SettingsError(f"{where}: model_version_policy: {exc}") from exc


def _json_labels(where: str, value: Any) -> Mapping[str, int]:
    # True is an int to Python.
    if not isinstance(value, dict) or not all(type(version) is int for version in value.values()):
        _refuse(where, "version_labels", value, 'versions by label, such as {"stable": 1}')
    return value


def _check_as_always(where: str, name: str, value: object) -> None:
    if name not in _AS_ALWAYS:
        raise SettingsError(f"{where}: {quoted(name)} is not supported; want name, base_path, model_version_policy")
    wanted = _AS_ALWAYS[name]
    # False is 0 to Python.
    if not any(type(value) is type(other) and value == other for other in wanted):
        _refuse(where, name, value, f"{json.dumps(wanted[0])} or nothing, as others are not supported")


def _checked(configs: list[ModelConfig]) -> list[ModelConfig]:
    names: set[str] = set()
    for number, config in enumerate(configs):
        _check(_where(number, config.name), config)
        if config.name in names:
            raise SettingsError(f"{_where(number, config.name)} is listed more than once; want each name once")
        names.add(config.name)
    return configs


def _check(where: str, config: ModelConfig) -> None:
    if not config.name or not config.name.isprintable():
        _refuse(where, "name", config.name, "what clients call the model")
    if not config.base_path.startswith("/") and _scheme(config.base_path) not in _URLS:
        _refuse(where, "base_path", config.base_path, f"an absolute path, or a URL of {', '.join(_URLS)}")
    for label, version in config.labels.items():
        if not label or not label.isprintable():
            _refuse(where, "version_labels", label, "a name for a version")
        if not 0 <= version <= MAX_VERSION:
            _refuse(where, f"the version of label {quoted(label)}", version, f"0 to {MAX_VERSION}")


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError:
        return ""


def _where(number: int, name: object) -> str:
    return f"model {quoted(repr(name))}" if name else f"model {number + 1} of the list"


def _refuse(where: str, name: str, given: object, wanted: str) -> NoReturn:
    raise SettingsError(f"{where}{': ' if where else ''}{name} is {quoted(repr(given))}; want {wanted}")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice")
    return fields


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
