"""A manifest's text, read strictly: what cannot be is refused with the field's path, what it is and what is wanted.

Texts of a manifest end in files of many languages, some of which have variables. What would be one there is refused
here, so that no renderer has to think of it.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

from handlers.config_json import SCHEMA, check_model
from handlers.configuration import models_of
from handlers.deploy.environment import compact, flags
from handlers.deploy.manifest import Manifest, Model
from handlers.model_options import unique
from handlers.settings import OF_ONE_MODEL, Kind, Settings, SettingsError, kinds
from runtime.errors import shown

MAX_TEXT = 128 << 10
"""Characters of a manifest."""
MAX_MODELS = 500
_MAX_DEPTH = 16
_MAX_STRING = 4096

_NAME = re.compile(r"(?a)[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_MODEL_NAME = re.compile(r"\w[\w.+@~-]{0,254}")
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
# As registries have it: a host's name may have capitals, a repository's not.
_IMAGE = re.compile(
    r"(?a)(?=.{1,400}\Z)"
    r"(?:(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)*[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?::\d{1,5})?/)?"
    rf"{_COMPONENT}(?:/{_COMPONENT})*(?::\w[\w.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?"
)
_REGION = re.compile(r"(?a)[a-z0-9-]{0,63}")
_ACCOUNT = re.compile(r"(?a)[a-z0-9]{3,24}")
_BUCKETS = {
    # Those of before 2018 may have capitals and underscores.
    "s3": (re.compile(r"(?a)[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]"), "letters, digits and ._-"),
    "gs": (re.compile(r"(?a)[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"), "lower-case letters, digits and ._-"),
    "az": (
        re.compile(r"(?a)(?=.{3,63}\Z)[a-z0-9]+(?:-[a-z0-9]+)*"),
        "3 to 63 lower-case letters, digits and single hyphens",
    ),
}
# No wildcard of any policy, no variable of any template, nothing to be quoted in any of them.
_PREFIX = re.compile(r"(?a)[\w.=+@,~/-]{0,900}")
_SIZE = re.compile(r"(?a)(\d{1,9}(?:\.\d{1,3})?) ?(?:([MGT])(?:i?B?)?)?")
_MIB = {"M": 1, "G": 1 << 10, "T": 1 << 20}
_VARIABLES = ("$", "%{", "{{")
_SCHEMES = {"s3": "s3", "gs": "gs", "az": "az", "azure": "az"}
_PATH = "an absolute path, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
_CHARACTERS = "letters, digits and ._=+@,~- between slashes"
_SECRET = re.compile(r"secret|password|passwd|token|credential|access_?key|account_?key|connection_?string|\bsas\b")
_CREDENTIALS = re.compile(r"://[^/\s]*@")

_SAID_OF_MODELS = (*OF_ONE_MODEL, "model_name", "model_path", "model_config", "model_config_file")
_SAID_BY_FILES = ("port", "rest_port", "rest_bind_address", "grpc_bind_address", "grpc_socket_path", "cache_dir")
_SAID_NOWHERE = ("model_config_file_poll_wait_seconds",)


class ManifestError(ValueError):
    """What is wrong, for the user: where, what is given and what is wanted."""


def parse(text: str) -> Manifest:
    """Return what a text says, in YAML or JSON.

    Raises:
        ManifestError: it is neither, or it describes what cannot be.
    """
    document = _document(text)
    if not isinstance(document, dict):
        raise ManifestError("this is no manifest; want an object with name, image and models")
    _check_texts("", document)
    known = ("warm", *_READ)
    for field in document:
        if field not in known:
            raise ManifestError(f"{_unknown(field, known)}; want {', '.join(known)}")
    if "warm" in document:
        document = _with_warm(document)
    for field in ("name", "image", "models"):
        if field not in document:
            raise ManifestError(f"{field} is missing; want {_WANTED[field]}")
    read = {field: _READ[field](field, value) for field, value in document.items()}
    manifest = Manifest(**read, is_limited="max_instances" in read)
    _check_together(manifest)
    return manifest


def _document(text: str) -> Any:
    if len(text) > MAX_TEXT:
        raise ManifestError(f"it has {len(text)} characters; want {MAX_TEXT} at most")
    # Here, as it is of an extra.
    try:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError, YAMLError
    except ModuleNotFoundError as exc:
        raise ManifestError("manifests need ruamel.yaml; try: pip install 'decant[deploy]'") from exc
    yaml = YAML(typ="safe", pure=True)
    try:
        if text.lstrip().startswith("{"):
            # YAML has JSON in it, but for tabs.
            with contextlib.suppress(json.JSONDecodeError):
                return json.loads(text, object_pairs_hook=unique)
        _check_structure(yaml.parse(io.StringIO(text)))
        return yaml.load(text)
    except MarkedYAMLError as exc:
        mark = exc.problem_mark
        where = f"{mark.line + 1}:{mark.column + 1}: " if mark else ""
        # The library's own text goes on with advice for programmers.
        raise ManifestError(f"{where}this is no YAML: {str(exc.problem or exc.context).splitlines()[0]}") from exc
    except YAMLError as exc:
        raise ManifestError(f"this is no YAML: {' '.join(str(exc).split())[:200]}") from exc
    except ManifestError:
        raise
    # Members twice, numbers too long, dates that are none; lists too deep.
    except (ValueError, RecursionError) as exc:
        raise ManifestError(f"this is no manifest: {str(exc)[:200]}") from exc


def _check_structure(events: Iterable[Any]) -> None:
    """Refuse what is small as text and large as values, before it is one."""
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

    depth = 0
    for event in events:
        where = f"{event.start_mark.line + 1}:{event.start_mark.column + 1}"
        if isinstance(event, AliasEvent):
            raise ManifestError(f"{where}: *{event.anchor} is an alias; want the value itself")
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise ManifestError(f"{where}: lists and objects are nested more than {_MAX_DEPTH} deep; want fewer")


def _check_texts(where: str, value: object, depth: int = 0) -> None:
    """Refuse values that JSON does not have, and texts that could not be everywhere what they are here."""
    if depth > _MAX_DEPTH:
        raise ManifestError(f"lists and objects are nested more than {_MAX_DEPTH} deep; want fewer")
    if isinstance(value, dict):
        for key, member in value.items():
            if not isinstance(key, str):
                raise ManifestError(f"{where or 'the manifest'} has the key {shown(key)}; want text: put it in quotes")
            _check_text(where or "the manifest", key)
            _check_texts(f"{where}.{key}".lstrip("."), member, depth + 1)
    elif isinstance(value, list):
        for number, member in enumerate(value):
            _check_texts(f"{where}[{number}]", member, depth + 1)
    elif isinstance(value, str):
        _check_text(where, value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ManifestError(f"{where} is {value}; want a number that JSON has")
    elif value is not None and not isinstance(value, bool | int | float):
        raise ManifestError(
            f"{where} is a {type(value).__name__}; want text, a number, true or false: put it in quotes"
        )


def _check_text(where: str, text: str) -> None:
    if _CREDENTIALS.search(text):
        raise ManifestError(f"{where} has credentials in a URL; want none: {_IDENTITY}")
    if len(text) > _MAX_STRING:
        raise ManifestError(f"{where} has {len(text)} characters; want {_MAX_STRING} at most")
    if not text.isprintable():
        raise ManifestError(f"{where} is {shown(text)}; want characters that can be printed")
    for variable in _VARIABLES:
        if variable in text:
            raise ManifestError(f"{where} has {variable}, which platforms' files have for variables; want none")


_IDENTITY = "what runs on a platform reads storage as the platform's identity, or with what its secrets hold"


def _with_warm(document: Mapping[str, Any]) -> dict[str, Any]:
    if "min_instances" in document:
        raise ManifestError("warm and min_instances are both given, and mean the same; want one of them")
    warm = document["warm"]
    rest = {field: value for field, value in document.items() if field != "warm"}
    number = int(warm) if isinstance(warm, bool) else _whole(range(0, 1001))("warm", warm)
    return {**rest, "min_instances": number}


def _refuse(where: str, given: object, wanted: str) -> NoReturn:
    raise ManifestError(f"{where} is {shown(given)}; want {wanted}")


def _unknown(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, 1, 0.6)
    return f"{shown(name)} is unknown{f', {close[0]} is meant perhaps' if close else ''}"


def _whole(among: range) -> Callable[[str, object], int]:
    def read(where: str, value: object) -> int:
        # True is an int to Python.
        if type(value) is not int or value not in among:
            _refuse(where, value, f"a whole number from {among[0]} to {among[-1]}")
        return value

    return read


def _matching(pattern: re.Pattern[str], wanted: str) -> Callable[[str, object], str]:
    def read(where: str, value: object) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            _refuse(where, value, wanted)
        return value

    return read


def _mib(among: range) -> Callable[[str, object], int]:
    wanted = f"MiB, or a size such as 512Mi or 1.5Gi, from {among[0]} to {among[-1]} MiB"

    def read(where: str, value: object) -> int:
        found = _SIZE.fullmatch(str(value)) if type(value) in (int, str) else None
        size = float(found[1]) * _MIB[found[2] or "M"] if found else 0.0
        if found is None or not size.is_integer() or int(size) not in among:
            _refuse(where, value, wanted)
        return int(size)

    return read


def _cores(where: str, value: object) -> float:
    if type(value) not in (int, float) or not 0.05 <= float(value) <= 256:  # type: ignore[arg-type]
        _refuse(where, value, "a number of cores, such as 0.5 or 2")
    return float(value)  # type: ignore[arg-type]


def _architecture(where: str, value: object) -> str:
    if value not in ("amd64", "arm64"):
        _refuse(where, value, "amd64 or arm64")
    return str(value)


def _boolean(where: str, value: object) -> bool:
    if not isinstance(value, bool):
        _refuse(where, value, "true or false")
    return value


def _models(where: str, value: object) -> tuple[Model, ...]:
    if not isinstance(value, list) or not value:
        _refuse(where, value, _WANTED["models"])
    if len(value) > MAX_MODELS:
        raise ManifestError(f"{where} are {len(value)}; want {MAX_MODELS} at most")
    models = tuple(_model(f"{where}[{number}]", fields) for number, fields in enumerate(value))
    names = [model.name for model in models]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ManifestError(
                f"{where}[{number}].name is {shown(name)}, as is {where}[{names.index(name)}].name; want each name once"
            )
    return models


def _model(where: str, fields: object) -> Model:
    if not isinstance(fields, dict):
        _refuse(where, fields, "an object with name and base_path")
    for field, wanted in (("name", _MODEL_NAME_WANTED), ("base_path", _PATH)):
        if field not in fields:
            raise ManifestError(f"{where}.{field} is missing; want {wanted}")
    name = _matching(_MODEL_NAME, _MODEL_NAME_WANTED)(f"{where}.name", fields["name"])
    base_path = _base_path(f"{where}.base_path", fields["base_path"])
    options = {field: value for field, value in fields.items() if field not in ("name", "base_path")}
    known = _model_fields()
    for field in options:
        if field not in known:
            raise ManifestError(f"{where}: {_unknown(field, known)}; want {', '.join(known)}")
    try:
        check_model({"name": name, "base_path": base_path, **options})
    except SettingsError as exc:
        raise ManifestError(f"{where}: {exc}") from exc
    return Model(name, base_path, options)


@functools.cache
def _model_fields() -> tuple[str, ...]:
    schema = json.loads(SCHEMA.read_bytes())
    return tuple(schema["definitions"]["model"]["properties"]["config"]["properties"])


def _base_path(where: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        _refuse(where, value, _PATH)
    scheme, separator, rest = value.partition("://")
    if not separator or scheme == "file":
        return _directory(where, unquote(urlsplit(value).path) if separator else value)
    if scheme not in _SCHEMES:
        _refuse(where, f"{scheme}://…", _PATH)
    bucket, _, prefix = rest.partition("/")
    if scheme == "s3" and ":" in bucket and "@" not in bucket:
        _refuse(where, value, "s3://bucket/prefix, and the server in settings.s3_endpoint")
    pattern, characters = _BUCKETS[_SCHEMES[scheme]]
    if not pattern.fullmatch(bucket):
        # There may be a password in it.
        raise ManifestError(f"{where} names no bucket after {scheme}://; want {_PATH}, with a bucket of {characters}")
    prefix = prefix.strip("/")
    if not _PREFIX.fullmatch(prefix) or not _is_plain(prefix):
        raise ManifestError(
            f"{where}: the prefix of {scheme}://{bucket}/… cannot be; want {_CHARACTERS}, and no . or .."
        )
    return f"{_SCHEMES[scheme]}://{bucket}/{prefix}".rstrip("/")


def _directory(where: str, path: str) -> str:
    if not path.startswith("/") or not path.strip("/"):
        _refuse(where, path, f"{_PATH}; a path is one in the container")
    path = path.rstrip("/")
    if not _PREFIX.fullmatch(path) or not _is_plain(path[1:]):
        _refuse(where, path, f"a path of {_CHARACTERS}, and no . or ..")
    return path


def _is_plain(path: str) -> bool:
    return not path or all(part not in ("", ".", "..") for part in path.split("/"))


def _settings(where: str, value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        _refuse(where, value, "an object of Decant's settings, such as log_level: DEBUG")
    known = kinds()
    settings: dict[str, str] = {}
    for given, member in value.items():
        name = given.replace("-", "_")
        if name in settings:
            raise ManifestError(f"{where}.{name} is given twice; want it once")
        settings[name] = _setting(f"{where}.{name}", name, member, known)
    return settings


def _setting(where: str, name: str, value: object, known: Mapping[str, Kind]) -> str:
    if name not in known and _SECRET.search(name.lower()):
        raise ManifestError(f"{where} is a secret, and this is no place for one: {_IDENTITY}")
    if name not in known:
        raise ManifestError(f"{where}: {_unknown(name, known)}; decant serve --help lists the settings")
    if name in _SAID_OF_MODELS:
        raise ManifestError(f"{where} is of one model; want it in that one's entry of models, or left out")
    if name in _SAID_BY_FILES:
        raise ManifestError(f"{where} is said by each platform's own files; want it left out")
    if name in _SAID_NOWHERE:
        raise ManifestError(f"{where} is of a file of models, which there is none; want it left out")
    text = _as_text(where, value)
    kind = known[name]
    try:
        kind.parse(text)
    except (ValueError, OverflowError):
        raise ManifestError(f"{where} is {shown(kind.quote(text))}; want {kind.wants}") from None
    return text


def _as_text(where: str, value: object) -> str:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, bool | int | float | dict):
        return compact(value)
    # As flags have lists: preload, metrics_list, allowed_batch_sizes.
    if isinstance(value, list) and value and all(type(one) in (int, str) for one in value):
        return ",".join(map(str, value))
    _refuse(where, value, "a value, or the setting left out")


def _check_together(manifest: Manifest) -> None:
    if manifest.min_instances > manifest.max_instances:
        _refuse("min_instances", manifest.min_instances, f"max_instances, which is {manifest.max_instances}, at most")
    if not manifest.azure_account and any(model.base_path.startswith("az:") for model in manifest.models):
        raise ManifestError("azure_account is missing; want the storage account that the az:// models are in")
    known = kinds()
    try:
        values = {name: known[name].parse(text) for name, text in flags(manifest).items()}
        # A library is the container's.
        settings = Settings(**{**values, "cpu_extension": ""})
        models_of(settings)
        settings.require_batching()
        if settings.workers != 1:
            settings.require_workers()
    except (SettingsError, ValueError) as exc:
        raise ManifestError(f"settings: {exc}") from exc
    for name, most in (("memory", manifest.memory), ("disk", manifest.disk)):
        if getattr(settings, f"{name}_budget") > most << 20:
            given = manifest.settings[f"{name}_budget"]
            _refuse(f"settings.{name}_budget", given, f"{name}, which is {most}Mi, at most, or more {name}")
    names = [model.name for model in manifest.models]
    for name in settings.preload:
        if name not in names:
            _refuse("settings.preload", name, f"names of models: {', '.join(names)[:200]}")


_NAME_WANTED = "a name of at most 63 lower-case letters, digits and hyphens that begins with a letter"
_MODEL_NAME_WANTED = "what clients call the model: letters, digits and ._+@~-"
_IMAGE_WANTED = "an image in lower case, such as registry.example.com/decant:1.0 or one with @sha256:…"
_WANTED = {"name": _NAME_WANTED, "image": _IMAGE_WANTED, "models": "a list of models, each with name and base_path"}
_READ: Mapping[str, Callable[[str, object], Any]] = {
    "name": _matching(_NAME, _NAME_WANTED),
    "image": _matching(_IMAGE, _IMAGE_WANTED),
    "models": _models,
    "region": _matching(_REGION, "a region's name, such as eu-west-1"),
    "architecture": _architecture,
    "memory": _mib(range(128, (1 << 20) + 1)),
    "cpu": _cores,
    "disk": _mib(range(64, (1 << 24) + 1)),
    "concurrency": _whole(range(1, 1001)),
    "timeout": _whole(range(1, 3601)),
    "min_instances": _whole(range(0, 1001)),
    "max_instances": _whole(range(1, 1001)),
    "grpc": _boolean,
    "public": _boolean,
    "azure_account": _matching(_ACCOUNT, "a storage account's name: 3 to 24 lower-case letters and digits"),
    "settings": _settings,
}
