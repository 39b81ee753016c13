"""OpenVINO Model Server's file of models: JSON that fits ``config.schema.json``.

What does not fit it, or is no JSON, is an error of the file, of which nothing is used. A model that fits and still
cannot be, and what Decant does not have, such as pipelines, is not served, and all others are.
"""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import unquote, urlsplit

from handlers import config_validator
from handlers.configuration import Configuration, MetricsConfig, ModelConfig, check, place, refuse, refuse_path
from handlers.model_options import FIELDS, options_from, unique
from handlers.settings import SettingsError
from model_cache.policy import VersionPolicy, parse_policy
from runtime.errors import quoted, shown

if TYPE_CHECKING:
    import fastjsonschema

logger = logging.getLogger(__name__)

SCHEMA = Path(__file__).with_name("config.schema.json")
"""Each part's description is what an error says is wanted there."""
# Also a string without an end: whatever follows it is a string to nobody, and is not to be looked at again and again.
_STRING_OR_LAST_COMMA = r'(?s)("(?:[^"\\]|\\.)*"?)|,(?=\s*[\]}])'


def parse_json(text: str, path: str) -> Configuration:
    """Return what a file describes.

    Args:
        path: the file's, or its URL, which models' relative paths are relative to.

    Raises:
        SettingsError: the text is no JSON, or does not fit the schema.
    """
    root = _loaded(text, path)
    _validate(root)
    models: dict[str, ModelConfig] = {}
    rejected: dict[str, str] = {}
    for number, entry in enumerate(root["model_config_list"]):
        fields = entry["config"]
        where = place(number, fields["name"])
        try:
            model = _model(where, fields, path)
        except SettingsError as exc:
            logger.warning("%s: %s; it is not served", path, exc)
            rejected.setdefault(_key(where, fields["name"]), exc.public)
            continue
        if model.name in models:
            logger.warning("%s: %s is listed more than once; the first is served", path, where)
        models.setdefault(model.name, model)
    for name, reason in _unsupported(root):
        logger.warning("%s: %s: %s", path, shown(name), reason)
        rejected.setdefault(_key(shown(name), name), reason)
    # A name can be in both, and whoever asks for it gets the model.
    rejected = {name: reason for name, reason in rejected.items() if name not in models}
    return Configuration(list(models.values()), rejected, _metrics(root), is_json=True)


def check_model(fields: Mapping[str, Any]) -> None:
    """Check a model's fields as those in a file.

    Raises:
        SettingsError: they do not fit the schema, or the model cannot be served; without its name.
    """
    where = place(0, fields["name"])
    try:
        _validate({"model_config_list": [{"config": fields}]})
        _model(where, fields, "")
    except SettingsError as exc:
        raise SettingsError(str(exc).removeprefix(f"{where}: ")) from exc


def _loaded(text: str, path: str) -> Any:
    try:
        return _strictly(text)
    except json.JSONDecodeError as exc:
        # OpenVINO Model Server's documentation has them, and people have copied it.
        without = re.sub(_STRING_OR_LAST_COMMA, lambda found: found[1] or " ", text)
        if without == text:
            raise _invalid(exc) from exc
    try:
        root = _strictly(without)
    except json.JSONDecodeError as exc:
        raise _invalid(exc) from exc
    logger.warning("%s: has commas before ] or }, which JSON has not; they are passed over", path)
    return root


def _strictly(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=_no_number)
    except json.JSONDecodeError:
        raise
    # Lists too deep; members twice, numbers too long.
    except (RecursionError, ValueError) as exc:
        raise SettingsError(f"this is no configuration: {quoted(str(exc))}") from exc


def _invalid(error: json.JSONDecodeError) -> SettingsError:
    return SettingsError(f"{error.lineno}:{error.colno}: The file is not valid json: {error.msg}")


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON's")


def _validate(root: Any) -> None:
    try:
        config_validator.validate(root)  # type: ignore[no-untyped-call]
    except config_validator.JsonSchemaValueException:
        _explain(root)
        # The library finds nothing wrong: one of the two is of another schema.
        raise


def _explain(root: Any) -> None:
    validate, misfit = _library()
    try:
        validate(root)
    except misfit as exc:
        raise SettingsError(_complaint(root, exc)) from exc


@functools.cache
def _library() -> tuple[Callable[[Any], Any], type[fastjsonschema.JsonSchemaValueException]]:
    # Here, as a file that fits its schema is served sooner without.
    import fastjsonschema

    validate = fastjsonschema.compile(json.loads(SCHEMA.read_bytes()), use_default=False)
    return validate, fastjsonschema.JsonSchemaValueException


def _complaint(root: Any, error: fastjsonschema.JsonSchemaValueException) -> str:
    """Return what is wrong where, as all errors of files have it: what was given and what is wanted."""
    where = str(error.name).removeprefix("data").lstrip(".")
    in_model = re.match(r"model_config_list\[(\d+)\]\.?(?:config\.?)?", where)
    if in_model:
        number = int(in_model[1])
        entry = root["model_config_list"][number]
        config = entry.get("config") if isinstance(entry, dict) else None
        name = config.get("name") if isinstance(config, dict) else None
        field = quoted(where[in_model.end() :]) or "it"
        return f"{place(number, name)}: {_difference(field, error)}"
    return _difference(quoted(where) or "it", error)


def _difference(field: str, error: fastjsonschema.JsonSchemaValueException) -> str:
    value, definition = error.value, error.definition
    known: Mapping[str, Any] = definition.get("properties", {})
    prefix = "" if field == "it" else f"{field}."
    if error.rule == "required":
        missing = next(name for name in definition["required"] if name not in value)
        return f"{prefix}{missing} is missing; want {known[missing]['description']}"
    if error.rule == "additionalProperties":
        extra = next(name for name in value if name not in known)
        return f"{prefix}{quoted(extra)} is not supported; want {', '.join(known)}"
    return f"{field} is {shown(value)}; want {definition['description']}"


def _model(where: str, fields: Mapping[str, Any], path: str) -> ModelConfig:
    if "custom_loader_options" in fields:
        raise SettingsError(f"{where}: custom_loader_options is given, and there are no custom loaders")
    model = ModelConfig(
        fields["name"],
        _absolute(where, fields["base_path"], path),
        _policy(where, fields.get("model_version_policy")),
        _labels(where, fields.get("version_labels", {})),
        is_lazy=fields.get("lazy"),
    )
    check(where, model)
    try:
        return model._replace(options=options_from({name: fields[name] for name in FIELDS if name in fields}))
    except ValueError as exc:
        raise SettingsError(f"{where}: {exc}") from exc


def _absolute(where: str, base_path: str, path: str) -> str:
    """Return a model's path, which may be relative to the directory of the file that names it."""
    if ".." in PurePosixPath(base_path).parts:
        refuse_path(where, base_path, "a path without ..")
    if not base_path or base_path.startswith("/") or "://" in base_path:
        return base_path
    if "://" in path and not path.startswith("file:"):
        return f"{path.rpartition('/')[0]}/{PurePosixPath(base_path)}"
    local = unquote(urlsplit(path).path) if path.startswith("file:") else path
    return str(Path(local).absolute().parent / base_path)


def _policy(where: str, value: object) -> VersionPolicy | None:
    try:
        return None if value is None else parse_policy(json.dumps(value))
    except (ValueError, RecursionError) as exc:
        raise SettingsError(f"{where}: model_version_policy: {exc}") from exc


def _labels(where: str, labels: Mapping[str, Any]) -> Mapping[str, int]:
    # True is an int to Python.
    if not all(type(version) is int for version in labels.values()):
        refuse(where, "version_labels", labels, 'versions by label, such as {"stable": 1}')
    return labels


def _unsupported(root: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the names of what Decant does not have, and what to say of each."""
    for pipeline in root.get("pipeline_config_list", ()):
        yield pipeline["name"], "it is a pipeline, and pipelines are not supported; want models"
    for graph in root.get("mediapipe_config_list", ()):
        yield graph["name"], "it is a MediaPipe graph, and graphs are not supported; want models"
    for loader in root.get("custom_loader_config_list", ()):
        yield loader["config"]["loader_name"], "it is a custom loader, and custom loaders are not supported"
    for library in root.get("custom_node_library_config_list", ()):
        yield library["name"], "it is a library of custom nodes, and custom nodes are not supported"


def _key(where: str, name: str) -> str:
    # Names are in answers and in logs, which not every character can be in.
    return name if name and name.isprintable() else where


def _metrics(root: Mapping[str, Any]) -> MetricsConfig | None:
    if "monitoring" not in root:
        return None
    metrics = root["monitoring"]["metrics"]
    families = tuple(dict.fromkeys(metrics.get("metrics_list", ())))
    if families:
        # Here, as few name any.
        from runtime.metric_families import selected

        try:
            selected(families)
        except ValueError as exc:
            raise SettingsError(f"monitoring.metrics: {exc}") from exc
    return MetricsConfig(metrics["enable"], families)
