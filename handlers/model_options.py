"""What config.json and flags say of how a model is made ready, as `ModelOptions`.

Both say it with the same names. A file has JSON's values, a command line has text, in which a list or an object is JSON
as well. What is wrong is a ValueError with the field, what was given and what is wanted.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from runtime.errors import shown
from runtime.options import ANY, AUTO, MAX_REQUESTS, MAX_SEQUENCES, ImageSteps, Layout, ModelOptions, Shape, Stateful
from runtime.signature import ANY_SIZE, Range

logger = logging.getLogger(__name__)

T = TypeVar("T")

FIELDS = (
    "shape",
    "batch_size",
    "layout",
    "nireq",
    "target_device",
    "plugin_config",
    "allow_cache",
    "mean",
    "scale",
    "color_format",
    "precision",
    "stateful",
    "idle_sequence_cleanup",
    "low_latency_transformation",
    "max_sequence_number",
)
"""What `options_from` reads: OpenVINO Model Server's names."""

_MAX_SIZE = 2**31 - 1
_MAX_SEQUENCES = 2**32 - 1

_SHAPE = '(1,3,224,224), (1,3,100:200,-1), auto, or {"input": "(1,3,224,224)"}'
_BATCH_SIZE = "a number, a range such as 1:8, -1 for any, auto, or 0 for the model's own"
_LAYOUT = 'NHWC, NHWC:NCHW for what clients send and what the model has, or {"input": "NHWC:NCHW"}; of N, C, H, W, D'
_PLUGIN_CONFIG = 'OpenVINO\'s properties, text or numbers by name, such as {"NUM_STREAMS": 2}'
_NUMBERS = 'a number, a list of one for each channel, or {"input": [123.675, 116.28, 103.53]}'
_COLORS = ("RGB", "BGR", "GRAY", "NV12", "NV12_2", "I420", "I420_3")
_COLOR_FORMAT = f"what clients send and what the model wants, such as BGR:RGB, of {', '.join(_COLORS)}"
_TYPES = {
    **{name: name for name in ("f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u64", "u32", "u16", "u8")},
    **{f"fp{bits}": f"f{bits}" for bits in (16, 32, 64)},
    **{f"int{bits}": f"i{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"u{bits}" for bits in (8, 16, 32, 64)},
}
_PRECISION = "the types that clients send and that the model wants, such as u8:f32"

# Properties that OpenVINO had until 2022 or 2024, by those that it has.
_RENAMED = {
    "CPU_THROUGHPUT_STREAMS": "NUM_STREAMS",
    "GPU_THROUGHPUT_STREAMS": "NUM_STREAMS",
    "CPU_THREADS_NUM": "INFERENCE_NUM_THREADS",
    "CPU_BIND_THREAD": "ENABLE_CPU_PINNING",
    "AFFINITY": "ENABLE_CPU_PINNING",
    "ENFORCE_BF16": "INFERENCE_PRECISION_HINT",
}
_RENAMED_VALUES = {
    "ENABLE_CPU_PINNING": {"NONE": "NO", "CORE": "YES", "NUMA": "YES", "HYBRID_AWARE": "YES"},
    "INFERENCE_PRECISION_HINT": {"YES": "bf16", "NO": "f32"},
    "NUM_STREAMS": {"CPU_THROUGHPUT_NUMA": "NUMA"},
}
_AS_MANY_STREAMS_AS_ARE_BEST = ("CPU_THROUGHPUT_AUTO", "GPU_THROUGHPUT_AUTO")

_WANTED = {"mean": _NUMBERS, "scale": _NUMBERS, "color_format": _COLOR_FORMAT, "precision": _PRECISION}


def options_from(fields: Mapping[str, object]) -> ModelOptions:
    """Return the options that a model's fields make; those that are not given, or None, are as by default.

    Raises:
        ValueError: one cannot be read or is unknown, or one does not go with another.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    for name in given:
        if name not in FIELDS:
            raise ValueError(f"{shown(name)} is no option of a model; want {', '.join(FIELDS)}")
    shape = parse_shape(given.get("shape", {}))
    batch_size = parse_batch_size(given.get("batch_size", 0))
    if shape and batch_size is not None:
        logger.warning("Both shape and batch size have been defined. Batch size parameter will be ignored.")
        batch_size = None
    options = ModelOptions(
        shape=shape,
        batch_size=batch_size,
        layout=parse_layout(given.get("layout", {})),
        steps=parse_steps(*(given.get(name) for name in ("mean", "scale", "color_format", "precision"))),
        requests=_integer("nireq", given.get("nireq", 0), MAX_REQUESTS),
        device=_device(given.get("target_device", "CPU")),
        properties=parse_plugin_config(given.get("plugin_config", {})),
        allows_cache=_boolean("allow_cache", given.get("allow_cache", False)),
        stateful=_stateful(given),
    )
    if options.stateful and (options.batch_size == AUTO or AUTO in dict(options.shape).values()):
        raise ValueError(
            "Dynamic shape and dynamic batch size are not supported for stateful models: "
            "auto is given with stateful; want one of the two"
        )
    return options


def parse_shape(value: object) -> tuple[tuple[str, Shape | str], ...]:
    """Read ``shape``: ``auto``, dimensions as text or a list, or an object of those by input."""
    return _by_name("shape", value, _shape, _SHAPE)


def parse_batch_size(value: object) -> Range | str | None:
    """Read ``batch_size``; None is the model's own, which is 0 there."""
    if value == AUTO:
        return AUTO
    # False is 0 to Python.
    if value in (0, "0") and value is not False:
        return None
    size = _range(value)
    if size is None:
        raise _refusal("batch_size", value, _BATCH_SIZE)
    return size


def parse_layout(value: object) -> tuple[tuple[str, Layout], ...]:
    """Read ``layout``: ``target[:source]`` as text, or an object of that by input or output."""
    return _by_name("layout", value, _layout, _LAYOUT)


def parse_plugin_config(value: object) -> tuple[tuple[str, str], ...]:
    """Read ``plugin_config``, with the names that properties have today; who gives both names means the new one."""
    properties = _parsed("plugin_config", value, _PLUGIN_CONFIG)
    if not isinstance(properties, dict) or not all(properties):
        raise _refusal("plugin_config", value, _PLUGIN_CONFIG)
    in_order = sorted(properties.items(), key=lambda item: item[0] not in _RENAMED)
    return tuple(sorted(dict(_renamed(name, _property(name, given)) for name, given in in_order).items()))


def parse_steps(
    mean: object = None, scale: object = None, color_format: object = None, precision: object = None
) -> tuple[tuple[str, ImageSteps], ...]:
    """Read what is done to inputs before the model sees them; None is nothing.

    What is said of all inputs holds for those that are named too, unless more is said of them.
    """
    means = _by_input("mean", mean, _numbers)
    scales = _by_input("scale", scale, _divisors)
    colors = _by_input("color_format", color_format, _color_format)
    types = _by_input("precision", precision, _precision)
    return tuple(
        (
            name,
            ImageSteps(
                means.get(name, means.get(ANY, ())),
                scales.get(name, scales.get(ANY, ())),
                colors.get(name, colors.get(ANY)),
                types.get(name, types.get(ANY)),
            ),
        )
        for name in sorted({*means, *scales, *colors, *types})
    )


def _refusal(name: str, given: object, wanted: str) -> ValueError:
    return ValueError(f"{name} is {shown(given)}; want {wanted}")


def _by_name(name: str, value: object, read: Callable[[str, object], T], wanted: str) -> tuple[tuple[str, T], ...]:
    """Read a value that is for the one input or for all of them, or an object of values by input."""
    value = _parsed(name, value, wanted)
    if not isinstance(value, dict):
        return ((ANY, read(name, value)),)
    if ANY in value:
        raise _refusal(f"an input's name in {name}", ANY, wanted)
    return tuple((key, read(f"{name} of {shown(key)}", value[key])) for key in sorted(value))


def _by_input(name: str, value: object, read: Callable[[str, object], T]) -> dict[str, T]:
    return {} if value is None else dict(_by_name(name, value, read, _WANTED[name]))


def _parsed(name: str, value: object, wanted: str) -> object:
    """Return the JSON in text that begins like a list or an object of it, else the value."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        parsed: object = json.loads(value, object_pairs_hook=unique)
        return parsed
    # Lists too deep; ValueError is also that of numbers too long.
    except (ValueError, RecursionError) as exc:
        raise _refusal(name, value, wanted) from exc


def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return a JSON object's members; for json's ``object_pairs_hook``.

    Raises:
        ValueError: one is there twice.
    """
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{shown(next(name for name in names if names.count(name) > 1))} is given twice")
    return fields


def _shape(name: str, value: object) -> Shape | str:
    if value == AUTO:
        return AUTO
    value = _parsed(name, value, _SHAPE)
    ranges = [_range(size) for size in _sizes(value)]
    known = tuple(size for size in ranges if size is not None)
    if not ranges or len(known) != len(ranges):
        raise _refusal(name, value, _SHAPE)
    return known


def _sizes(value: object) -> Iterable[object]:
    if isinstance(value, list):
        return value
    text = _without_spaces(value) if isinstance(value, str) else ""
    # As Python has it for one dimension, (30,) is (30).
    return text[1:-1].removesuffix(",").split(",") if text.startswith("(") and text.endswith(")") else ()


def _range(value: object) -> Range | None:
    """Return the sizes that are meant by a number, a range such as 1:8, or -1; None if it is nothing of these."""
    # True is an int to Python.
    if isinstance(value, int) and not isinstance(value, bool):
        return (value, value) if 0 < value <= _MAX_SIZE else ANY_SIZE if value == -1 else None
    text = _without_spaces(value) if isinstance(value, str) else ""
    if text == "-1":
        return ANY_SIZE
    match = re.fullmatch(r"(?a)(\d{1,10})(?::(\d{1,10}))?", text)
    if match is None:
        return None
    least, most = int(match[1]), int(match[2] or match[1])
    return (least, most) if 0 < least <= most <= _MAX_SIZE else None


def _without_spaces(text: str) -> str:
    return "".join(text.split())


def _layout(name: str, value: object) -> Layout:
    text = _without_spaces(value).upper() if isinstance(value, str) else ""
    tensor, has_model, model = text.partition(":")
    if not _is_layout(tensor) or (has_model and not _is_layout(model)):
        raise _refusal(name, value, _LAYOUT)
    if has_model and "." not in text and sorted(tensor) != sorted(model):
        raise _refusal(name, value, f"the same dimensions on both sides of the colon: {_LAYOUT}")
    return Layout(tensor, "" if model == tensor else model)


def _is_layout(text: str) -> bool:
    letters = re.sub(r"\?|\.\.\.", "", text)
    return bool(re.fullmatch(r"[NCHWD?]*(\.\.\.)?[NCHWD?]*", text)) and text != "" and len(set(letters)) == len(letters)


def _property(name: str, value: object) -> str:
    """Return a property's value as text, from which OpenVINO reads all of them."""
    if isinstance(value, bool):
        return "YES" if value else "NO"
    if not isinstance(value, str | int | float):
        raise _refusal(f"plugin_config's {shown(name)}", value, "text or a number")
    return str(value)


def _renamed(name: str, text: str) -> tuple[str, str]:
    name = _RENAMED.get(name, name)
    if name == "NUM_STREAMS" and text in _AS_MANY_STREAMS_AS_ARE_BEST:
        return "PERFORMANCE_HINT", "THROUGHPUT"
    return name, _RENAMED_VALUES.get(name, {}).get(text, text)


def _numbers(name: str, value: object) -> tuple[float, ...]:
    value = _parsed(name, value, _NUMBERS)
    given = value if isinstance(value, list) else [value]
    try:
        numbers = tuple(map(_number, given))
    except (ValueError, OverflowError) as exc:
        raise _refusal(name, value, _NUMBERS) from exc
    if not numbers:
        raise _refusal(name, value, _NUMBERS)
    return numbers


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not math.isfinite(float(value)):
        raise ValueError
    return float(value)


def _divisors(name: str, value: object) -> tuple[float, ...]:
    numbers = _numbers(name, value)
    if 0.0 in numbers:
        raise _refusal(name, value, f"no 0, as inputs are divided by it: {_NUMBERS}")
    return numbers


def _color_format(name: str, value: object) -> tuple[str, str]:
    return _pair(name, value, {color: color for color in _COLORS}, str.upper, _COLOR_FORMAT)


def _precision(name: str, value: object) -> tuple[str, str]:
    return _pair(name, value, _TYPES, str.lower, _PRECISION)


def _pair(
    name: str, value: object, known: Mapping[str, str], fold: Callable[[str], str], wanted: str
) -> tuple[str, str]:
    text = fold(_without_spaces(value)) if isinstance(value, str) else ""
    tensor, _, model = text.partition(":")
    if tensor not in known or model not in known:
        raise _refusal(name, value, wanted)
    return known[tensor], known[model]


def _integer(name: str, value: object, most: int) -> int:
    wanted = f"a whole number up to {most}"
    if isinstance(value, str) and re.fullmatch(r"(?a)\s*\d{1,10}\s*", value):
        value = int(value)
    # True is an int to Python.
    if type(value) is not int or not 0 <= value <= most:
        raise _refusal(name, value, wanted)
    return value


def _boolean(name: str, value: object) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise _refusal(name, value, "true or false")
    return value


def _device(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"(?a)[\w.:,()-]+", value):
        raise _refusal("target_device", value, "a device of OpenVINO's, such as CPU, AUTO, HETERO:GPU,CPU")
    return value


def _stateful(fields: Mapping[str, object]) -> Stateful | None:
    stateful = Stateful(
        _integer("max_sequence_number", fields.get("max_sequence_number", MAX_SEQUENCES), _MAX_SEQUENCES),
        _boolean("idle_sequence_cleanup", fields.get("idle_sequence_cleanup", True)),
        _boolean("low_latency_transformation", fields.get("low_latency_transformation", False)),
    )
    if _boolean("stateful", fields.get("stateful", False)):
        return stateful
    if stateful != Stateful():
        raise ValueError(
            "Stateful model config parameter used for non stateful model: want stateful true beside "
            "max_sequence_number, idle_sequence_cleanup and low_latency_transformation, or none of them"
        )
    return None
