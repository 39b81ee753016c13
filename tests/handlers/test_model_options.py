"""What config.json and flags say of a model, field by field, as JSON's values and as text."""

from __future__ import annotations

import json

import pytest

from handlers.model_options import (
    FIELDS,
    options_from,
    parse_batch_size,
    parse_layout,
    parse_plugin_config,
    parse_shape,
    parse_steps,
)
from runtime.options import DEFAULTS, ImageSteps, Layout, ModelOptions, Shape, Stateful
from runtime.signature import Range

IMAGE: Shape = ((1, 1), (3, 3), (224, 224), (224, 224))


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        ("auto", "auto"),
        ("(1,3,224,224)", IMAGE),
        (" ( 1, 3,224 ,224 ) ", IMAGE),
        ("[1, 3, 224, 224]", IMAGE),
        ([1, 3, 224, 224], IMAGE),
        ("(1,-1,100:200)", ((1, 1), (0, -1), (100, 200))),
        ([1, -1, "100:200"], ((1, 1), (0, -1), (100, 200))),
        ("(30,)", ((30, 30),)),
        ("(2147483647)", ((2**31 - 1, 2**31 - 1),)),
    ],
)
def test_a_shape_is_of_the_one_input_or_by_input(value: object, shape: Shape | str) -> None:
    assert parse_shape(value) == (("", shape),)
    by_input = {"b": value, "a": "auto"}
    assert parse_shape(by_input) == parse_shape(json.dumps(by_input)) == (("a", "auto"), ("b", shape))


@pytest.mark.parametrize(
    "value",
    [
        "",
        "()",
        "(,)",
        "(1,,2)",
        "(0)",
        "(-2)",
        "(1:0)",
        "(1:2:3)",
        "(:2)",
        "(2147483648)",
        "(99999999999)",
        "1,3",
        "(1,3",
        "(a)",
        "(१)",
        "Auto",
        "{",
        "[" * 5000,
        "[" + "9" * 5000 + "]",
        '{"a": "(1)", "a": "(2)"}',
        [],
        [0],
        [True],
        [1.5],
        [[1]],
        [None],
        7,
        True,
        None,
        {"": "auto"},
        '{"": "auto"}',
        {"a": ""},
        {"a": None},
        {"a": {"b": "auto"}},
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_shape_is_named_with_what_is_wanted(value: object) -> None:
    with pytest.raises(ValueError, match=r"shape( of 'a')? is .*; want \(1,3,224,224\), ") as caught:
        parse_shape(value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (0, None),
        ("0", None),
        (4, (4, 4)),
        ("4", (4, 4)),
        ("auto", "auto"),
        (-1, (0, -1)),
        ("-1", (0, -1)),
        ("1:8", (1, 8)),
        (" 1 : 8 ", (1, 8)),
    ],
)
def test_a_batch_size_is_a_number_a_range_or_what_comes(value: object, size: Range | str | None) -> None:
    assert parse_batch_size(value) == size


@pytest.mark.parametrize("value", ["", "two", "8:1", "0:8", "-2", -2, 1.5, True, False, [1], {"a": 1}, None, 2**31])
def test_what_is_no_batch_size_is_named_with_what_is_wanted(value: object) -> None:
    with pytest.raises(ValueError, match=r"^batch_size is .*; want a number, a range such as 1:8, "):
        parse_batch_size(value)


@pytest.mark.parametrize(
    ("value", "layout"),
    [
        ("NHWC", Layout("NHWC")),
        ("nhwc:nchw", Layout("NHWC", "NCHW")),
        (" N H W C : N C H W ", Layout("NHWC", "NCHW")),
        ("NHWC:NHWC", Layout("NHWC")),
        ("N...", Layout("N...")),
        ("...", Layout("...")),
        ("N??", Layout("N??")),
        ("N?HWC", Layout("N?HWC")),
        ("N...C:NC...", Layout("N...C", "NC...")),
        ("NHWC:N...", Layout("NHWC", "N...")),
    ],
)
def test_a_layout_is_what_clients_send_and_what_the_model_has(value: str, layout: Layout) -> None:
    assert parse_layout(value) == (("", layout),)
    by_name = {"out": "CN", "in": value}
    assert parse_layout(by_name) == parse_layout(json.dumps(by_name)) == (("in", layout), ("out", Layout("CN")))


@pytest.mark.parametrize(
    "value",
    [
        "",
        ":",
        "NHWC:",
        ":NCHW",
        "NHWC:NCHW:NHWC",
        "NHWX",
        "NN",
        "N..",
        "N......",
        "N...C...",
        "auto",
        7,
        ["NHWC"],
        "NHWC:NCH",
        "NHWC:NCHD",
        {"in": 7},
        {"": "NHWC"},
        '{"in": "NHWC"',
    ],
    ids=str,
)
def test_what_is_no_layout_is_named_with_what_is_wanted(value: object) -> None:
    with pytest.raises(ValueError, match=r"layout( of 'in')? is .*; want .*NHWC:NCHW"):
        parse_layout(value)


@pytest.mark.parametrize(
    ("given", "properties"),
    [
        ({"CPU_THROUGHPUT_STREAMS": "CPU_THROUGHPUT_AUTO"}, {"PERFORMANCE_HINT": "THROUGHPUT"}),
        ({"GPU_THROUGHPUT_STREAMS": "GPU_THROUGHPUT_AUTO"}, {"PERFORMANCE_HINT": "THROUGHPUT"}),
        ({"CPU_THROUGHPUT_STREAMS": "CPU_THROUGHPUT_NUMA"}, {"NUM_STREAMS": "NUMA"}),
        ({"CPU_THROUGHPUT_STREAMS": 4, "CPU_THREADS_NUM": "2"}, {"INFERENCE_NUM_THREADS": "2", "NUM_STREAMS": "4"}),
        ({"CPU_BIND_THREAD": "NO"}, {"ENABLE_CPU_PINNING": "NO"}),
        ({"CPU_BIND_THREAD": "NUMA"}, {"ENABLE_CPU_PINNING": "YES"}),
        ({"AFFINITY": "NONE"}, {"ENABLE_CPU_PINNING": "NO"}),
        ({"ENFORCE_BF16": "NO"}, {"INFERENCE_PRECISION_HINT": "f32"}),
        ({"NUM_STREAMS": "1", "CPU_THROUGHPUT_STREAMS": "4"}, {"NUM_STREAMS": "1"}),
        (
            {"PERFORMANCE_HINT": "LATENCY", "CPU_THROUGHPUT_STREAMS": "CPU_THROUGHPUT_AUTO"},
            {"PERFORMANCE_HINT": "LATENCY"},
        ),
        ({"B": 1.5, "A": True, "C": ""}, {"A": "YES", "B": "1.5", "C": ""}),
        ({}, {}),
    ],
)
def test_properties_have_the_names_that_they_have_today(given: dict[str, object], properties: dict[str, str]) -> None:
    assert parse_plugin_config(given) == parse_plugin_config(json.dumps(given)) == tuple(properties.items())


@pytest.mark.parametrize(
    "value", ["", "NUM_STREAMS=2", "{", [], "[]", {"": "1"}, {"A": None}, {"A": {"B": "1"}}, None, 7]
)
def test_what_are_no_properties_is_named_with_what_is_wanted(value: object) -> None:
    with pytest.raises(ValueError, match=r"^plugin_config('s 'A')? is .*; want .*text or "):
        parse_plugin_config(value)


def test_steps_of_all_inputs_hold_for_named_ones_that_say_nothing_else() -> None:
    steps = parse_steps("[1, 2.5, 3]", {"a": 2, "b": "4"}, {"a": "bgr:rgb"}, "uint8:FP32")
    assert steps == (
        ("", ImageSteps((1.0, 2.5, 3.0), (), None, ("u8", "f32"))),
        ("a", ImageSteps((1.0, 2.5, 3.0), (2.0,), ("BGR", "RGB"), ("u8", "f32"))),
        ("b", ImageSteps((1.0, 2.5, 3.0), (4.0,), None, ("u8", "f32"))),
    )
    assert parse_steps() == ()
    assert parse_steps(scale=255) == (("", ImageSteps(scale=(255.0,))),)


@pytest.mark.parametrize("value", ["", "x", "nan", "inf", "1e999", [], ["x"], [None], True, None, {"": 1}, "[1", "1,2"])
@pytest.mark.parametrize("field", ["mean", "scale"])
def test_what_are_no_numbers_is_named_with_what_is_wanted(field: str, value: object) -> None:
    given = [value] if value is None else value
    with pytest.raises(ValueError, match=rf"{field} is .*; want a number, a list of one for each channel"):
        parse_steps(**{field: given})


def test_nothing_is_divided_by_zero() -> None:
    with pytest.raises(ValueError, match=r"^scale of 'a' is \[1, 0\]; want no 0, "):
        parse_steps(scale={"a": [1, 0]})
    assert parse_steps(mean=0) == (("", ImageSteps(mean=(0.0,))),)


@pytest.mark.parametrize("value", ["", "RGB", "RGB:", "RGB:XYZ", "RGB:BGR:RGB", 7, ["RGB:BGR"]], ids=str)
def test_what_are_no_colours_is_named_with_what_is_wanted(value: object) -> None:
    with pytest.raises(
        ValueError, match=r"^color_format is .*; want what clients send .* BGR:RGB, of RGB, BGR, GRAY, "
    ):
        parse_steps(color_format=value)


@pytest.mark.parametrize("value", ["", "u8", "u8:", "u8:f33", "u8:f32:f32", 8, ["u8:f32"]], ids=str)
def test_what_are_no_types_is_named_with_what_is_wanted(value: object) -> None:
    with pytest.raises(ValueError, match=r"^precision is .*; want the types that clients send"):
        parse_steps(precision=value)


def test_a_model_of_which_nothing_is_said_is_as_it_is() -> None:
    assert options_from({}) == options_from(dict.fromkeys(FIELDS)) == DEFAULTS
    assert options_from({"batch_size": 0, "nireq": 0, "target_device": "CPU", "plugin_config": {}}) == DEFAULTS


def test_text_says_what_values_say() -> None:
    values = {
        "nireq": 2,
        "allow_cache": True,
        "stateful": True,
        "max_sequence_number": 3,
        "idle_sequence_cleanup": False,
    }
    options = ModelOptions(requests=2, allows_cache=True, stateful=Stateful(3, has_idle_cleanup=False))
    assert options_from(values) == options_from({name: json.dumps(value) for name, value in values.items()}) == options


def test_options_are_hashable_whatever_is_said() -> None:
    fields = {"shape": {"a": "(1,2)"}, "layout": "NC", "plugin_config": {"A": 1}, "mean": [1, 2], "stateful": True}
    assert len({options_from(fields), options_from(fields), DEFAULTS}) == 2


def test_a_shape_goes_before_a_batch_size(caplog: pytest.LogCaptureFixture) -> None:
    assert options_from({"shape": "(1,2)", "batch_size": 4}) == options_from({"shape": "(1,2)"})
    assert caplog.messages == ["Both shape and batch size have been defined. Batch size parameter will be ignored."]


@pytest.mark.parametrize("field", ["max_sequence_number", "idle_sequence_cleanup", "low_latency_transformation"])
def test_what_is_said_of_sequences_is_said_of_a_stateful_model(field: str) -> None:
    value = {"max_sequence_number": 7, "idle_sequence_cleanup": False, "low_latency_transformation": True}[field]
    assert options_from({field: value, "stateful": True}).stateful != Stateful()
    with pytest.raises(
        ValueError, match=r"^Stateful model config parameter used for non stateful model: want stateful"
    ):
        options_from({field: value})


@pytest.mark.parametrize("dynamic", [{"shape": "auto"}, {"shape": {"a": "auto"}}, {"batch_size": "auto"}])
def test_a_stateful_model_has_one_shape(dynamic: dict[str, object]) -> None:
    with pytest.raises(
        ValueError, match=r"^Dynamic shape and dynamic batch size are not supported for stateful models"
    ):
        options_from({**dynamic, "stateful": True})


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("nireq", -1, "nireq is -1; want a whole number up to 100000"),
        ("nireq", "100001", "nireq is 100001; want a whole number up to 100000"),
        ("nireq", "x", "nireq is 'x'; want a whole number"),
        ("nireq", True, "nireq is true; want a whole number"),
        ("nireq", 1.0, "nireq is 1.0; want a whole number"),
        ("max_sequence_number", 2**32, "max_sequence_number is 4294967296; want a whole number up to 4294967295"),
        ("stateful", "yes", "stateful is 'yes'; want true or false"),
        ("stateful", 1, "stateful is 1; want true or false"),
        ("target_device", "", "target_device is ''; want a device of OpenVINO's, such as CPU"),
        ("target_device", "CPU\n", "target_device is 'CPU\\n'; want a device of OpenVINO's"),
        ("target_device", 7, "target_device is 7; want a device of OpenVINO's"),
        ("name", "m", "'name' is no option of a model; want shape, batch_size, layout"),
    ],
)
def test_a_field_that_cannot_be_is_named_with_what_is_wanted(field: str, value: object, wanted: str) -> None:
    with pytest.raises(ValueError, match=r"; want ") as caught:
        options_from({field: value})
    assert str(caught.value).startswith(wanted)


@pytest.mark.parametrize(
    "device", ["CPU", "GPU.1", "AUTO", "AUTO:-CPU", "MULTI:GPU,CPU", "HETERO:GPU.0,CPU", "BATCH:GPU(16)"]
)
def test_devices_are_openvinos_to_know(device: str) -> None:
    assert options_from({"target_device": device}).device == device


def test_an_error_quotes_a_little_of_what_is_large() -> None:
    deep: object = "x" * 10_000
    for _ in range(500):
        deep = {"a": deep, "b": ["y"] * 1000}
    with pytest.raises(ValueError, match=r"^batch_size is \{.*; want") as caught:
        parse_batch_size(deep)
    assert len(str(caught.value)) < 500
