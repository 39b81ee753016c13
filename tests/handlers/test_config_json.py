"""OpenVINO Model Server's config.json: what it means, what is wrong with all of it, and what with one model."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import Any

import pytest

from handlers.config_compile import TARGET, compile_schema
from handlers.config_json import SCHEMA
from handlers.configuration import Configuration, MetricsConfig, ModelConfig, parse
from handlers.model_options import FIELDS
from handlers.settings import SettingsError
from model_cache.policy import All, Latest, Specific
from runtime.options import ImageSteps, Layout, ModelOptions, Stateful
from tests.servers.processes import clean_environment

PATH = "/conf/config.json"


def one(**fields: object) -> str:
    return several({"name": "m", "base_path": "/models/m", **fields})


def several(*models: dict[str, object], **others: object) -> str:
    return json.dumps({"model_config_list": [{"config": model} for model in models], **others})


def read(text: str, path: str = PATH) -> Configuration:
    return parse(path, text.encode())


def m(**fields: Any) -> list[ModelConfig]:
    return [ModelConfig("m", "/models/m", **fields)]


def with_options(**options: Any) -> list[ModelConfig]:
    return m(options=ModelOptions(**options))


GOOD = {
    one(): m(),
    "\ufeff\n " + one(): m(),
    one(model_version_policy={"latest": {"num_versions": 2}}): m(policy=Latest(2)),
    one(model_version_policy={"all": {}}): m(policy=All()),
    one(model_version_policy={"specific": {"versions": [1, 3]}}): m(policy=Specific(frozenset({1, 3}))),
    one(batch_size="0", nireq=0, target_device="CPU", plugin_config={}, stateful=False): m(),
    one(version_labels={"stable": 1}): m(labels={"stable": 1}),
    one(lazy=True): m(is_lazy=True),
    one(lazy=False): m(is_lazy=False),
    one(batch_size=16): with_options(batch_size=(16, 16)),
    one(batch_size="1:8"): with_options(batch_size=(1, 8)),
    one(shape="auto"): with_options(shape=(("", "auto"),)),
    one(shape={"in": "(1,3,100:200,-1)", "mask": [1, 3], "any": "auto"}): with_options(
        shape=(("any", "auto"), ("in", ((1, 1), (3, 3), (100, 200), (0, -1))), ("mask", ((1, 1), (3, 3))))
    ),
    one(layout="NHWC:NCHW"): with_options(layout=(("", Layout("NHWC", "NCHW")),)),
    one(layout={"in": "NHWC:NCHW", "out": "CN"}): with_options(
        layout=(("in", Layout("NHWC", "NCHW")), ("out", Layout("CN")))
    ),
    one(nireq=4, target_device="HETERO:GPU,CPU"): with_options(requests=4, device="HETERO:GPU,CPU"),
    one(plugin_config={"CPU_THROUGHPUT_STREAMS": "CPU_THROUGHPUT_AUTO", "CPU_THREADS_NUM": 2}): with_options(
        properties=(("INFERENCE_NUM_THREADS", "2"), ("PERFORMANCE_HINT", "THROUGHPUT"))
    ),
    one(allow_cache=True): with_options(allows_cache=True),
    one(stateful=True, idle_sequence_cleanup=False, low_latency_transformation=True, max_sequence_number=1000): (
        with_options(stateful=Stateful(1000, has_idle_cleanup=False, has_low_latency=True))
    ),
    one(mean=[123.675, 116.28, 103.53], scale=58.395, color_format="RGB:BGR", precision="u8:fp32"): with_options(
        steps=(("", ImageSteps((123.675, 116.28, 103.53), (58.395,), ("RGB", "BGR"), ("u8", "f32"))),)
    ),
    several({"name": "a", "base_path": "s3://b/a"}, {"name": "b/c:d", "base_path": "azure://c/d"}): [
        ModelConfig("a", "s3://b/a"),
        ModelConfig("b/c:d", "azure://c/d"),
    ],
    several(): [],
    several(pipeline_config_list=[], custom_loader_config_list=[], custom_node_library_config_list=[]): [],
}


@pytest.mark.parametrize("text", GOOD)
def test_a_file_describes_models(text: str, caplog: pytest.LogCaptureFixture) -> None:
    assert read(text) == Configuration(GOOD[text], {}, None, is_json=True)
    assert not caplog.records


@pytest.mark.parametrize(
    ("path", "base_path", "wanted"),
    [
        ("/conf/config.json", "models/m", "/conf/models/m"),
        ("/conf/config.json", "./m", "/conf/m"),
        ("file:///my%20conf/config.json", "m", "/my conf/m"),
        ("s3://bucket/conf/config.json", "./models/m", "s3://bucket/conf/models/m"),
        ("s3://bucket/conf/config.json", "/models/m", "/models/m"),
        ("s3://bucket/conf/config.json", "gs://other/m", "gs://other/m"),
    ],
)
def test_a_models_path_may_be_relative_to_the_file(path: str, base_path: str, wanted: str) -> None:
    assert read(several({"name": "m", "base_path": base_path}), path).models == [ModelConfig("m", wanted)]


def test_commas_that_end_a_list_are_passed_over_as_the_documentation_has_them(caplog: pytest.LogCaptureFixture) -> None:
    text = """{
        "model_config_list": [
            {"config": {"name": "a,}", "base_path": "/a\\",]", "shape": {"in": "(1,3,200,200)",},}},
            {"config": {"name": "b", "base_path": "/b", "nireq": 32 ,
            }},
        ],
    }"""
    shape = (("in", ((1, 1), (3, 3), (200, 200), (200, 200))),)
    assert read(text).models == [
        ModelConfig("a,}", '/a",]', options=ModelOptions(shape=shape)),
        ModelConfig("b", "/b", options=ModelOptions(requests=32)),
    ]
    assert caplog.messages == [f"{PATH}: has commas before ] or }}, which JSON has not; they are passed over"]


def test_metrics_are_monitored_as_the_file_says() -> None:
    monitoring = {"metrics": {"enable": True, "metrics_list": ["ovms_streams", "ovms_streams", "ovms_requests_fail"]}}
    assert read(several(monitoring=monitoring)).metrics == MetricsConfig(True, ("ovms_streams", "ovms_requests_fail"))
    assert read(several(monitoring={"metrics": {"enable": False}})).metrics == MetricsConfig(False)


UNUSABLE = {
    "{": f"{PATH}: 1:2: The file is not valid json: Expecting property name",
    '{"model_config_list": [],\n,}': f"{PATH}: 2:2: The file is not valid json: Expecting property name",
    '{"model_config_list": [1,], ""}': f"{PATH}: 1:31: The file is not valid json: Expecting ':' delimiter",
    "{" + '\\"' * 400_000: f"{PATH}: 1:2: The file is not valid json: Expecting property name",
    several() + "x": f"{PATH}: 1:26: The file is not valid json: Extra data",
    '{"model_config_list": ' + "[" * 100_000: f"{PATH}: this is no configuration: maximum recursion",
    '{"model_config_list": [], "model_config_list": []}': "'model_config_list' is given twice",
    '{"model_config_list": ' + "9" * 5000 + "}": f"{PATH}: this is no configuration: Exceeds the limit",
    one(mean=float("inf")): f"{PATH}: this is no configuration: Infinity is no number of JSON's",
    "{}": f'{PATH}: model_config_list is missing; want a list of {{"config": {{"name": ..., "base_path": ...}}}}',
    '{"model_config_list": {}}': f"{PATH}: model_config_list is {{}}; want a list of",
    '{"model_config_list": [1]}': f'{PATH}: model 1 of the list: it is 1; want {{"config":',
    '{"model_config_list": [{}]}': f"{PATH}: model 1 of the list: config is missing; want",
    '{"model_config_list": [{"config": {}, "more": 1}]}': "model 1 of the list: name is missing; want text, what",
    '{"model_config_list": [{"config": {"name": "m", "base_path": "/m"}, "more": 1}]}': (
        "model 'm': more is not supported; want config"
    ),
    '{"model_config_list": [{"config": []}]}': 'model 1 of the list: it is []; want {"name": ..., "base_path": ...}',
    several({"base_path": "/m"}): "model 1 of the list: name is missing; want text",
    several({"name": 7, "base_path": "/m"}): "model 7: name is 7; want text, what clients call the model",
    several({"name": "m"}): "model 'm': base_path is missing; want text, the directory of its versions",
    several({"name": "a", "base_path": "/a"}, {"name": "b", "base_path": None}): "model 'b': base_path is null; want",
    one(nireq=-1): "model 'm': nireq is -1; want a whole number from 0",
    one(nireq=True): "model 'm': nireq is true; want a whole number",
    one(nireq="2"): "model 'm': nireq is '2'; want a whole number",
    one(batch_size=1.5): "model 'm': batch_size is 1.5; want a number from 0, or text",
    one(shape=7): "model 'm': shape is 7; want text such as (1,3,224,224) or auto",
    one(layout=["NHWC"]): "model 'm': layout is ['NHWC']; want text such as NHWC:NCHW",
    one(plugin_config="{}"): "model 'm': plugin_config is '{}'; want an object",
    one(model_version_policy="all"): "model 'm': model_version_policy is 'all'; want {\"latest\":",
    one(stateful="true"): "model 'm': stateful is 'true'; want true or false",
    one(lazy=1): "model 'm': lazy is 1; want true or false",
    one(custom_loader_options={}): "model 'm': custom_loader_options.loader_name is missing; want text",
    one(version_labels=["stable"]): "model 'm': version_labels is ['stable']; want versions by label",
    one(shapes="auto"): "model 'm': shapes is not supported; want name, base_path, batch_size, shape, ",
    one(**{"x" * 10_000: 1}): "xxx... is not supported; want name",
    several(models=[]): f"{PATH}: models is not supported; want model_config_list, custom_loader_config_list, ",
    several(pipeline_config_list=[{}]): f"{PATH}: pipeline_config_list[0].name is missing; want text",
    several(monitoring={}): f"{PATH}: monitoring.metrics is missing; want",
    several(monitoring={"metrics": {"enable": 1}}): f"{PATH}: monitoring.metrics.enable is 1; want true or false",
    several(monitoring={"metrics": {"enable": True, "metrics_list": [1]}}): (
        f"{PATH}: monitoring.metrics.metrics_list[0] is 1; want a family's name"
    ),
}


@pytest.mark.parametrize("text", UNUSABLE, ids=lambda text: text[:80])
def test_of_an_unusable_file_the_model_the_field_and_what_is_wanted_are_named(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(text)
    message = str(caught.value)
    assert UNUSABLE[text] in message
    assert message.startswith(f"{PATH}: ")
    assert "\n" not in message
    assert len(message) < 800


REJECTED: dict[str, tuple[dict[str, object], str]] = {
    "shape": ({"shape": "1,3"}, "shape is '1,3'; want (1,3,224,224), (1,3,100:200,-1), auto, or"),
    "shape of an input": ({"shape": {"in": "(0)"}}, "shape of 'in' is '(0)'; want (1,3,224,224)"),
    "batch size": ({"batch_size": "8:1"}, "batch_size is '8:1'; want a number, a range such as 1:8"),
    "layout": ({"layout": "NHWC:NCHWD"}, "layout is 'NHWC:NCHWD'; want the same dimensions on both sides"),
    "nireq": ({"nireq": 100_001}, "nireq is 100001; want a whole number up to 100000"),
    "device": ({"target_device": "the CPU"}, "target_device is 'the CPU'; want a device of OpenVINO's"),
    "plugin_config": ({"plugin_config": {"A": []}}, "plugin_config's 'A' is []; want text or a number"),
    "policy": ({"model_version_policy": {"newest": {}}}, "model_version_policy: cannot read the version policy"),
    "labels": ({"version_labels": {"stable": True}}, "version_labels is {'stable': true}; want versions by label"),
    "label": ({"version_labels": {"stable": -1}}, "the version of label stable is -1; want 0 to"),
    "sequences": ({"max_sequence_number": 7}, "Stateful model config parameter used for non stateful model"),
    "loader": (
        {"custom_loader_options": {"loader_name": "l", "x": 1}},
        "custom_loader_options is given, and there are no custom loaders",
    ),
    "path": ({"base_path": ""}, "base_path is ''; want an absolute path, or a URL of file, s3"),
    "escaping path": ({"base_path": "/models/../etc"}, "base_path is '/models/../etc'; want a path without .."),
    "share": ({"base_path": "azfs://share/m"}, "base_path is 'azfs://share/m'; want an absolute path, or a URL of"),
}


@pytest.mark.parametrize("what", REJECTED)
def test_a_model_that_cannot_be_is_rejected_and_the_others_are_served(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    fields, reason = REJECTED[what]
    other: dict[str, object] = {"name": "other", "base_path": "/other"}
    configuration = read(several({"name": "m", "base_path": "/models/m", **fields}, other))
    assert configuration.models == [ModelConfig("other", "/other")]
    assert list(configuration.rejected) == ["m"]
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"{PATH}: model 'm': {reason}")
    assert record.getMessage().endswith("; it is not served")
    # Clients are told the same, but not where models are.
    told = "model 'm': base_path cannot be; want " if "base_path" in fields else f"model 'm': {reason}"
    assert configuration.rejected["m"].startswith(told)


@pytest.mark.parametrize(("name", "key"), [("", "model 1 of the list"), ("a\nb", "model 'a\\nb'"), ("\ud800", None)])
def test_a_model_without_a_usable_name_is_rejected_under_one_that_can_be_shown(name: str, key: str | None) -> None:
    configuration = read(several({"name": name, "base_path": "/m"}))
    [(shown, reason)] = configuration.rejected.items()
    assert shown == (key or "model '\\ud800'")
    assert f"{shown}: name is " in reason


def test_of_several_models_of_one_name_the_first_is_served(caplog: pytest.LogCaptureFixture) -> None:
    models: list[dict[str, object]] = [{"name": "m", "base_path": path} for path in ("/a", "/b")]
    assert read(several(*models)) == Configuration([ModelConfig("m", "/a")], {}, is_json=True)
    assert caplog.messages == [f"{PATH}: model 'm' is listed more than once; the first is served"]


def test_of_several_models_of_one_name_the_first_that_can_be_is_served() -> None:
    models: list[dict[str, object]] = [{"name": "m", "base_path": path} for path in ("", "/b")]
    assert read(several(*models)) == Configuration([ModelConfig("m", "/b")], {}, is_json=True)


SOURCE = {"image": {"node_name": "request", "data_item": "image"}}
NODE = {"name": "n", "inputs": [SOURCE], "outputs": [{"data_item": "o", "alias": "o"}]}
CUSTOM_NODE = {**NODE, "type": "custom", "library_name": "lib", "params": {"debug": "true"}, "demultiply_count": 0}
MODEL_NODE = {**NODE, "type": "DL model", "model_name": "m", "version": 1, "gather_from_node": "n"}
PIPELINE = {"name": "p", "inputs": ["image"], "nodes": [CUSTOM_NODE, MODEL_NODE], "outputs": [SOURCE]}
LOADER = {"loader_name": "l", "library_path": "/lib.so", "loader_config_file": "l.conf"}


def test_what_there_is_none_of_is_rejected_and_the_models_are_served(caplog: pytest.LogCaptureFixture) -> None:
    text = several(
        {"name": "m", "base_path": "/models/m"},
        pipeline_config_list=[PIPELINE, {**PIPELINE, "name": "m", "demultiply_count": -1}],
        custom_node_library_config_list=[{"name": "lib", "base_path": "/lib.so"}],
        custom_loader_config_list=[{"config": LOADER}],
        mediapipe_config_list=[{"name": "g", "base_path": "/g", "graph_path": "graph.pbtxt", "subconfig": "s.json"}],
    )
    rejected = {
        "p": "it is a pipeline, and pipelines are not supported; want models",
        "g": "it is a MediaPipe graph, and graphs are not supported; want models",
        "l": "it is a custom loader, and custom loaders are not supported",
        "lib": "it is a library of custom nodes, and custom nodes are not supported",
    }
    assert read(text) == Configuration(m(), rejected, is_json=True)
    assert f"{PATH}: 'p': {rejected['p']}" in caplog.messages
    # The second pipeline has a model's name, and whoever asks for that gets the model.
    assert len(caplog.messages) == 5


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"type": "custom"}, "nodes[0] is {"),
        ({"model_name": 7}, "nodes[0].model_name is 7; want text"),
        ({"inputs": [{}]}, 'nodes[0].inputs[0] is {}; want {"input": {'),
        ({"inputs": [{"a.b": {"node_name": "n"}}]}, "nodes[0].inputs[0].a.b.data_item is missing; want text"),
        ({"params": {"debug": True}}, "nodes[0].params.debug is true; want text"),
        ({"demultiply_count": 10_001}, "nodes[0].demultiply_count is 10001; want a whole number from -1 to 10000"),
    ],
)
def test_a_pipeline_that_fits_no_schema_makes_the_file_unusable(change: dict[str, object], wanted: str) -> None:
    pipeline = {**PIPELINE, "nodes": [{**MODEL_NODE, **change}]}
    with pytest.raises(SettingsError) as caught:
        read(several(pipeline_config_list=[pipeline]))
    assert f"{PATH}: pipeline_config_list[0].{wanted}" in str(caught.value)


def test_the_schema_has_each_option_and_says_what_is_wanted_of_each_part() -> None:
    schema = json.loads(SCHEMA.read_bytes())
    assert {*FIELDS} <= schema["definitions"]["model"]["properties"]["config"]["properties"].keys()
    # An error quotes the description of the part that is not as it should be.
    without = [part for part in parts(schema) if "description" not in part and part.keys() & {"type", "properties"}]
    assert all(part.keys() <= {"properties", "required", "not"} for part in without)


def test_the_compiled_schema_is_of_the_schema() -> None:
    assert TARGET.read_text() == compile_schema()


READING = """
import sys
from handlers.configuration import parse
parse("config.json", sys.stdin.buffer.read())
assert "handlers.config_json" in sys.modules
sys.exit("fastjsonschema" in sys.modules)
"""


def test_a_file_that_fits_is_read_without_the_schemas_library() -> None:
    program = [sys.executable, "-c", READING]
    subprocess.run(program, input=one(shape="auto").encode(), env=clean_environment(), timeout=60, check=True)


def parts(schema: object) -> list[dict[str, Any]]:
    if not isinstance(schema, dict):
        return []
    below = [schema, *schema.get("properties", {}).values(), *schema.get("definitions", {}).values()]
    below += [schema.get("items"), schema.get("additionalProperties"), *schema.get("oneOf", [])]
    return [schema, *(part for child in below[1:] for part in parts(child))]
