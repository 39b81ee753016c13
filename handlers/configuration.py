"""Which models to serve: from flags, from a file in either server's format, or from a message.

TensorFlow Serving's files are protobuf's text of a ModelServerConfig, OpenVINO Model Server's are JSON. What neither
Decant nor its caller can mean is an error that names it: nothing that is written is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn
from urllib.parse import unquote, urlsplit

from handlers.settings import Settings, SettingsError
from model_cache.policy import MAX_VERSION, All, Latest, Specific, VersionPolicy
from model_cache.storage import BACKENDS, StorageOptions, open_storage, public_url
from runtime.errors import quoted, shown
from runtime.options import DEFAULTS, ModelOptions

MAX_FILE = 1 << 20
"""Bytes that a file may have: some ten thousand models."""
INLINE = "model_config"
"""What errors call a configuration that is a setting's text."""
PLATFORMS = ("", "tensorflow", "openvino")
"""Values of model_platform: both servers' files name their own, and models are what their files say."""
_URLS = tuple(filter(None, BACKENDS))
_NONE: Mapping[str, Any] = MappingProxyType({})


class ModelConfig(NamedTuple):
    name: str
    base_path: str
    policy: VersionPolicy | None = None
    labels: Mapping[str, int] = _NONE
    options: ModelOptions = DEFAULTS
    is_lazy: bool | None = None
    """Whether its first request loads it; None is as it is for all."""


class MetricsConfig(NamedTuple):
    is_enabled: bool
    families: tuple[str, ...] = ()
    """The only ones that there are to be; none is the default ones."""


class Configuration(NamedTuple):
    models: Sequence[ModelConfig]
    rejected: Mapping[str, str] = _NONE
    """What is wrong with a model, pipeline, graph, loader or library, by its name; it is not served, the others are."""
    metrics: MetricsConfig | None = None
    is_json: bool = False
    """Whether it is of OpenVINO Model Server's file."""


def models_of(settings: Settings) -> Configuration:
    """Return the one model that flags describe, or those of the file that they name or have the text of.

    Relative paths in such a text are relative to the working directory.

    Raises:
        SettingsError: there is none, several are given, or the file is not what it should be.
        StorageUnavailable: the file is in a storage that cannot be read.
    """
    settings.require_models()
    if settings.model_config_file:
        return parse(settings.model_config_file, read(settings.model_config_file, settings.storage_options()))
    if settings.model_config:
        # A variable may have bytes that are no UTF-8, of which `parse` complains.
        content = settings.model_config.encode(errors="surrogateescape")
        return parse(INLINE, _bounded("its text", content, INLINE))
    labels, options = settings.version_labels or _NONE, _options(settings)
    return Configuration(
        [ModelConfig(settings.model_name, settings.model_path, settings.model_version_policy, labels, options)]
    )


def _options(settings: Settings) -> ModelOptions:
    fields = settings.model_fields()
    if not fields:
        return DEFAULTS
    # Here, as only who says something of the model needs it.
    from handlers.model_options import options_from

    try:
        return options_from(fields)
    except ValueError as exc:
        raise SettingsError(str(exc)) from exc


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
    local = Path(unquote(urlsplit(path).path) if scheme else path)
    try:
        # Whoever opens one waits for whoever writes to it.
        if local.is_fifo():
            raise SettingsError(f"cannot read {path}: it is a pipe", f"cannot read {local.name}: it is a pipe")
        with local.open("rb") as file:
            return _bounded(path, file.read(MAX_FILE + 1), setting)
    except OSError as exc:
        public = f"cannot read {local.name}: {exc.strerror or type(exc).__name__}"
        raise SettingsError(f"cannot read {path}: {exc.strerror or exc}", public) from exc


def _fetch(url: str, options: StorageOptions, setting: str) -> bytes:
    where, _, name = url.rpartition("/")
    try:
        storage = open_storage(where, options)
    except ValueError as exc:
        raise SettingsError(f"{setting}: {exc}", f"{setting}: it is in no storage") from exc
    blob = next((blob for blob in storage.list(name) if blob.key == name), None)
    if blob is None:
        raise SettingsError(f"cannot read {url}: there is no such file", f"cannot read {name}: there is no such file")
    stop = min(blob.size, MAX_FILE + 1)
    return b"".join(storage.fetch(blob, 0, stop)) if stop else b""


def _bounded(path: str, content: bytes, setting: str) -> bytes:
    if len(content) > MAX_FILE:
        difference = f"is larger than {MAX_FILE} bytes; want a file of that at most"
        raise SettingsError(f"{setting}: {path} {difference}", f"{setting}: {_name(path)} {difference}")
    return content


# What is looked at again and again complains once of what it rejects.
@lru_cache(maxsize=1)
def parse(path: str, content: bytes) -> Configuration:
    """Return what a file of either format describes, which one it is being told by what is in it.

    Args:
        path: the file's, or its URL, which relative paths in JSON are relative to.

    Raises:
        SettingsError: it is in neither, or its text describes what cannot be; with the file, the model and the field.
    """
    # Here, as only who has such a file needs them.
    try:
        text = content.decode("utf-8-sig")
        if not text.strip():
            raise SettingsError("is empty; want model_config_list { config { name: ... base_path: ... } }, or JSON")
        if text.lstrip().startswith("{"):
            from handlers.config_json import parse_json

            return parse_json(text, path)
        from handlers.config_text import parse_text

        return Configuration(from_message(parse_text(text)))
    except UnicodeDecodeError as exc:
        difference = f"has bytes that are no UTF-8 at {exc.start}; want text"
        raise SettingsError(f"{path} {difference}", f"{_name(path)} {difference}") from exc
    except SettingsError as exc:
        raise SettingsError(f"{path}: {exc}", f"{_name(path)}: {exc.public}") from exc


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def from_message(message: Any) -> list[ModelConfig]:
    """Return the models of a ModelServerConfig.

    Raises:
        SettingsError: it describes what cannot be.
    """
    if message.WhichOneof("config") != "model_config_list":
        given = message.WhichOneof("config") or "nothing"
        raise SettingsError(f"{given} is given; want model_config_list")
    configs = [_from_model_config(number, config) for number, config in enumerate(message.model_config_list.config)]
    names: set[str] = set()
    for number, config in enumerate(configs):
        check(place(number, config.name), config)
        if config.name in names:
            raise SettingsError(f"{place(number, config.name)} is listed more than once; want each name once")
        names.add(config.name)
    return configs


def _from_model_config(number: int, config: Any) -> ModelConfig:
    where = place(number, config.name)
    if config.model_platform not in PLATFORMS:
        refuse(where, "model_platform", config.model_platform, "tensorflow, openvino or nothing")
    if config.model_type not in (0, 1):
        refuse(where, "model_type", config.model_type, "model_platform instead")
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


def check(where: str, config: ModelConfig) -> None:
    """Check what both formats say of a model.

    Raises:
        SettingsError: it cannot be; with ``where``.
    """
    if not config.name or not config.name.isprintable():
        refuse(where, "name", config.name, "what clients call the model")
    is_found = config.base_path.startswith("/") or _scheme(config.base_path) in _URLS
    if not is_found or not config.base_path.isprintable():
        refuse_path(where, config.base_path, f"an absolute path, or a URL of {', '.join(_URLS)}")
    for label, version in config.labels.items():
        if not label or not label.isprintable():
            refuse(where, "version_labels", label, "a name for a version")
        if not 0 <= version <= MAX_VERSION:
            refuse(where, f"the version of label {quoted(label)}", version, f"0 to {MAX_VERSION}")


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError:
        return ""


def place(number: int, name: object) -> str:
    """Return what an error calls a model, by where it is in the list if it has no name."""
    return f"model {shown(name)}" if name else f"model {number + 1} of the list"


def refuse_path(where: str, given: str, wanted: str) -> NoReturn:
    """Refuse a base_path, which may have credentials in it."""
    raise SettingsError(
        f"{where}: base_path is {shown(public_url(given))}; want {wanted}",
        f"{where}: base_path cannot be; want {wanted}",
    )


def refuse(where: str, name: str, given: object, wanted: str) -> NoReturn:
    raise SettingsError(f"{where}: {name} is {shown(given)}; want {wanted}")
