"""Which files a model needs, by its format, and which it does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_cache.needed import is_compiled, needed

IR = ["model.bin", "model.xml"]
LITTER = [
    *("README.md", "notebook.ipynb", "preview.PNG", "src.tar.gz", "labels.txt", "config.json", "train.log"),
    *("model.safetensors", "model.h5", "pytorch_model.bin", "training_args.bin", "logs/events.out.tfevents.1700000000"),
    *("model.ckpt-1000.data-00000-of-00001", "checkpoints/epoch=1.ckpt", "optimizer.pt"),
    *(".gitattributes", ".git/objects/ab/cdef", ".ipynb_checkpoints/model.xml", "_SUCCESS", "_temporary/0/part"),
    *("_started_123", "_committed_123"),
]
SAVED_MODEL = [
    "assets.extra/tf_serving_warmup_requests",
    "assets/vocabulary.txt",
    "fingerprint.pb",
    "keras_metadata.pb",
    "saved_model.pb",
    "variables/variables.data-00000-of-00001",
    "variables/variables.index",
]


@pytest.mark.parametrize(
    "model",
    [
        IR,
        ["model.xml"],
        # OpenVINO Model Server takes weights of any name.
        ["model.xml", "weights.bin"],
        # Which of several is the model, or that none is, the engine has to say.
        ["detokenizer.bin", "detokenizer.xml", "tokenizer.bin", "tokenizer.xml"],
        ["model.onnx"],
        ["decoder.onnx", "encoder.onnx"],
        # As diffusers, optimum, PyTorch's exporter, and onnx.save with a file for each tensor name them.
        ["model.onnx", "weights.pb"],
        ["model.onnx", "model.onnx_data", "model.onnx_data_1"],
        ["model.onnx", "model.onnx.data"],
        ["_fc.weight", "encoder.layer.0.bias", "model.onnx", "onnx__MatMul_1234"],
        ["data/deep/down/weights.bin", "model.onnx"],
        ["model.bin", "model.onnx"],
        ["inference.pdiparams", "inference.pdmodel"],
        ["inference.json", "inference.pdiparams"],
        ["inference.json", "inference.pdiparams", "inference.yml"],
        SAVED_MODEL,
        ["saved_model.pbtxt", "variables/variables.index"],
        ["frozen_graph.pb"],
        ["model.tflite"],
    ],
    ids=" ".join,
)
def test_a_model_needs_its_files_and_nothing_beside_them(model: list[str]) -> None:
    assert needed(model) == model
    assert needed([*LITTER, *model]) == model


@pytest.mark.parametrize(
    "extra",
    [
        "mapping_config.json",
        "assets.extra/tf_serving_warmup_requests",
        "cpu.blob",
        "blobs/4242424242424242.blob",
    ],
)
@pytest.mark.parametrize("model", [IR, ["model.onnx"], ["graph.pb"], ["model.tflite"], ["m.pdiparams", "m.pdmodel"]])
def test_what_any_model_may_need(model: list[str], extra: str) -> None:
    assert needed([*model, *LITTER, extra]) == sorted([*model, extra])


FORMATS = [
    ["model.xml", "model.bin"],
    ["net.onnx", "net.onnx_data"],
    ["paddle.pdmodel", "paddle.pdiparams"],
    ["saved_model.pb", "variables/variables.index"],
    ["lite.tflite"],
]


@pytest.mark.parametrize("first", range(len(FORMATS)))
def test_of_several_formats_the_one_that_model_server_would_take_is_the_model(first: int) -> None:
    names = [name for model in FORMATS[first:] for name in model]
    assert needed(names) == sorted(FORMATS[first])


def test_weights_of_another_name_are_left_out_if_the_model_has_its_own() -> None:
    assert needed([*IR, "old.bin"]) == IR


def test_a_saved_model_needs_no_graph_beside_it() -> None:
    assert needed([*SAVED_MODEL, "frozen.pb"]) == SAVED_MODEL


def test_another_model_in_a_directory_of_its_own_is_not_taken_for_external_data() -> None:
    others = [
        *("int8/model.onnx", "int8/model.onnx_data", "int8/parts/weights"),
        *("openvino/model.xml", "openvino/model.bin", "tf/saved_model.pb", "tf/variables/variables.index"),
    ]
    assert needed(["model.onnx", "external/weights", *others]) == ["external/weights", "model.onnx"]


@pytest.mark.parametrize(
    "names",
    [
        [],
        LITTER,
        ["model.bin"],
        ["mapping_config.json", "cpu.blob"],
        ["sub/model.xml", "sub/model.bin"],
        ["sub/saved_model.pb"],
        ["weights.pdiparams"],
        ["config.json", "weights.pdiparams"],
        ["variables/variables.index", "assets/vocabulary.txt"],
        [".xml/model", ".onnx"],
        ["MODEL.XML"],
        ["../model.xml"],
        ["/model.xml"],
    ],
    ids=str,
)
def test_without_a_model_at_the_top_nothing_is_needed(names: list[str]) -> None:
    assert needed(names) == []


@pytest.mark.parametrize(
    "odd",
    ["", "/", "..", "../escaped", "sub/../../escaped", "./x", "sub//x", "sub/", "/etc/passwd", "a\\b", "a\0b", "a\nb"],
    ids=repr,
)
@pytest.mark.parametrize("model", [IR, ["model.onnx"]])
def test_odd_names_are_not_passed_over_in_silence(model: list[str], odd: str) -> None:
    assert needed([*model, odd, "README.md"]) == sorted([*model, odd])


PARTS = st.sampled_from(
    ["model", "saved_model", "variables", "assets.extra", "int8", "_SUCCESS", "", ".", "..", ".hidden", "pytorch_model"]
)
SUFFIXES = st.sampled_from(
    ["", ".xml", ".bin", ".onnx", ".pb", ".pbtxt", ".tflite", ".pdmodel", ".pdiparams", ".json", ".yml", ".blob", ".md"]
)
FILES = st.builds(lambda parts, suffix: "/".join(parts) + suffix, st.lists(PARTS, min_size=1, max_size=3), SUFFIXES)
NAMES = st.lists(FILES | st.text(max_size=10), max_size=12, unique=True)


@given(NAMES)
def test_the_answer_is_some_of_the_names_whatever_their_order(names: list[str]) -> None:
    found = needed(names)
    assert set(found) <= set(names)
    assert found == sorted(set(found))
    assert needed(names[::-1]) == found
    # What is needed is a model by itself.
    assert needed(found) == found


@given(NAMES)
def test_nothing_is_needed_unless_there_is_a_model(names: list[str]) -> None:
    top = {name for name in needed(names) if "/" not in name}
    suffixes = (".xml", ".onnx", ".pdmodel", ".json", ".pb", ".pbtxt", ".tflite")
    assert not needed(names) or any(name.endswith(suffixes) for name in top)


COMPILED = ["compiled/a.blob", "compiled/0f-2026.4.1-22982-5d.blob"]
NOT_COMPILED = [
    "compiled/.a.blob",
    "compiled/a/b.blob",
    "compiled/a b.blob",
    "a.blob",
    "x/compiled/a.blob",
    "compiled/a",
]


@pytest.mark.parametrize("model", [IR, ["model.onnx"], SAVED_MODEL, ["model.tflite"]], ids=lambda model: model[-1])
def test_what_was_compiled_of_a_model_is_not_needed_whatever_the_model(model: list[str]) -> None:
    assert needed([*model, *COMPILED]) == sorted(model)
    assert [name for name in [*COMPILED, *NOT_COMPILED] if is_compiled(name)] == COMPILED


def test_an_onnx_model_may_have_its_data_in_a_directory_of_any_name() -> None:
    assert needed(["model.onnx", "compiled/weights"]) == ["compiled/weights", "model.onnx"]
