"""Files of models that nobody wrote: whatever is in one, it is read, or it is an error that an operator can read."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.config_json import SCHEMA
from handlers.configuration import Configuration, ModelConfig, parse
from handlers.model_options import FIELDS, options_from
from handlers.settings import SettingsError

SCHEMA_OF_FILES = json.loads(SCHEMA.read_bytes())

texts = st.text(max_size=8) | st.sampled_from(
    ["auto", "(1,-1,2:3)", "NHWC:NCHW", "RGB:BGR", "u8:f32", "1:8", "-1", "CPU", "/m", "s3://b/m", "{", "[1]", "a\nb"]
)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([2**31, 2**64, 10**4000])
scalars = st.none() | st.booleans() | numbers | texts
anything = st.recursive(
    scalars, lambda some: st.lists(some, max_size=4) | st.dictionaries(texts, some, max_size=4), max_leaves=6
)
options = scalars | st.lists(scalars, max_size=4) | st.dictionaries(texts, scalars, max_size=3)


def fits(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """What fits a schema of the few kinds that there are in that of files."""
    if "$ref" in schema:
        return fits(SCHEMA_OF_FILES["definitions"][schema["$ref"].rpartition("/")[2]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return st.one_of([_OF_TYPE[name](schema) for name in types])


def _objects(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    properties = {name: fits(part) for name, part in schema.get("properties", {}).items()}
    if not properties:
        some = fits(schema["additionalProperties"]) if "additionalProperties" in schema else options
        most = schema.get("maxProperties", 3)
        return st.dictionaries(texts, some, min_size=schema.get("minProperties", 0), max_size=most)
    required = {name: properties[name] for name in schema.get("required", ())}
    optional = {name: part for name, part in properties.items() if name not in required}
    return st.fixed_dictionaries(required, optional=optional)


_OF_TYPE: dict[str, Callable[[dict[str, Any]], st.SearchStrategy[Any]]] = {
    "object": _objects,
    "array": lambda schema: st.lists(fits(schema["items"]) if "items" in schema else scalars, max_size=3),
    "string": lambda _: texts,
    "boolean": lambda _: st.booleans(),
    "number": lambda _: numbers,
    "integer": lambda schema: st.integers(schema.get("minimum"), schema.get("maximum")),
}
files = fits(SCHEMA_OF_FILES)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each place of a file where something could be something else: a container and a key of it."""
    keys: Any = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    # Many thousand lines, which would be kept for a failure.
    caplog.set_level(logging.ERROR)


def check(content: bytes) -> Configuration | None:
    """Read a file; what comes of it is a configuration that can be used and shown, or an error of one short line."""
    try:
        configuration = parse("/conf/config.json", content)
    except SettingsError as exc:
        assert_shown(str(exc))
        return None
    for model in configuration.models:
        assert isinstance(model, ModelConfig)
        hash((model.name, model.base_path, model.policy, model.options, model.is_lazy))
        assert model.name.isprintable()
        assert model.name not in configuration.rejected
    for name, reason in configuration.rejected.items():
        assert name
        name.encode()
        assert_shown(reason)
    return configuration


def assert_shown(message: str) -> None:
    message.encode()
    assert message
    assert "\n" not in message
    assert len(message) < 4000


@given(anything)
@settings(max_examples=100, deadline=None)
def test_anything_as_json_is_read_or_refused(value: Any) -> None:
    check(json.dumps(value).encode())
    check(json.dumps({"model_config_list": value}).encode())
    check(json.dumps({"model_config_list": [{"config": value}]}).encode())


@given(st.binary() | st.text(alphabet='{}[]",:\\ 1ae-n\n').map(lambda text: b"{" + text.encode()))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    check(content)


@given(files)
@settings(max_examples=60, deadline=None)
def test_what_fits_the_schema_is_never_refused_as_a_whole(value: Any) -> None:
    configuration = check(json.dumps(value).encode())
    nodes = [node for pipeline in value.get("pipeline_config_list", ()) for node in pipeline["nodes"]]
    families = value.get("monitoring", {}).get("metrics", {}).get("metrics_list")
    # What a node has must also go together, and there are not all families that there could be.
    assert configuration is not None or nodes or families
    if configuration is not None:
        names = {entry["config"]["name"] for entry in value["model_config_list"]}
        assert len(configuration.models) <= len(names) <= len(configuration.models) + len(configuration.rejected)


@given(files, st.randoms(use_true_random=False), anything)
@settings(max_examples=100, deadline=None)
def test_a_file_with_one_thing_changed_is_read_or_refused(value: Any, random: Any, other: Any) -> None:
    changed = copy.deepcopy(value)
    container, key = random.choice(list(places(changed)))
    container[key] = other
    check(json.dumps(changed).encode())


@given(st.dictionaries(st.sampled_from(FIELDS), anything, max_size=4))
@settings(max_examples=200, deadline=None)
def test_any_values_of_options_are_options_or_refused(fields: dict[str, Any]) -> None:
    try:
        hash(options_from(fields))
    except ValueError as exc:
        assert_shown(str(exc))
