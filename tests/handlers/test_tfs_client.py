"""TensorFlow Serving's own client, on the real TensorFlow, against the real server: what a user of theirs would see."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - np.dtype("bfloat16")
import numpy as np
import pytest

from runtime.codecs.schema.reflection import wire_file
from tests.runtime import models
from tests.servers.certificate import write_certificate
from tests.servers.decant import decant_serve
from tests.servers.tfs_client import IS_INSTALLED, NEEDS_TFSERVING, ask_everything
from tests.servers.tfs_client_script import DTYPES

pytestmark = [
    pytest.mark.tfserving,
    pytest.mark.skipif(not IS_INSTALLED, reason=NEEDS_TFSERVING),
    # Importing TensorFlow, on a busy machine.
    pytest.mark.timeout(120),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("tfs")
    bases = dict(saved_models(directory / "models"))
    config = directory / "models.config"
    config.write_text(config_text({name: base for name, base in bases.items() if name != "new"}))
    (directory / "schema.binpb").write_bytes(wire_file().SerializeToString())
    certificate, key = write_certificate(directory, is_authority=True)
    socket = directory / "grpc.sock"
    flags: list[str | Path] = ["--model_config_file", config, "--grpc_socket_path", socket]
    flags += ["--grpc_tls_key_file", key, "--grpc_tls_cert_file", certificate]
    content_socket = directory / "content.sock"
    content_flags: list[str | Path] = ["--model_config_file", config, "--grpc_socket_path", content_socket]
    content_flags += ["--enable_serialization_as_tensor_content", "true"]
    with (
        decant_serve(directory / "serve", *flags) as server,
        decant_serve(directory / "content", *content_flags, without_grpc=True),
    ):
        return ask_everything(
            directory,
            socket=str(socket),
            content_socket=str(content_socket),
            address=server.grpc_address,
            root=str(certificate),
            schema=str(directory / "schema.binpb"),
            reload=config_text({name: base for name, base in bases.items() if name in ("f32", "new")}),
        )


def saved_models(directory: Path) -> Iterator[tuple[str, Path]]:
    made = {element_type: models.doubler(element_type) for element_type in DTYPES}
    made |= {"speller": models.speller(), "crossing": models.crossing(), "summer": models.summer()}
    made |= {"adder": models.adder(), "two": models.doubler(), "new": models.doubler()}
    for name, model in made.items():
        models.save(model, directory / name)
        yield name, directory / name
    models.save(models.doubler(), directory / "two", 2)


def config_text(bases: dict[str, Path]) -> str:
    configs = []
    for name, base in bases.items():
        labels = ""
        if name == "two":
            labels = " version_labels { key: 'stable' value: 1 } version_labels { key: 'canary' value: 2 }"
            labels += " model_version_policy { all {} }"
        configs.append(f"config {{ name: '{name}' base_path: '{base}' model_platform: 'tensorflow'{labels} }}")
    return "model_config_list {\n" + "\n".join(configs) + "\n}\n"


@pytest.mark.parametrize("form", ["as it is made", "as content", "in its field"])
@pytest.mark.parametrize(("name", "field"), DTYPES.values(), ids=list(DTYPES))
def test_every_dtype_goes_both_ways(results: dict[str, Any], name: str, field: str, form: str) -> None:
    answer = results[f"{name} {form}"]
    want: list[list[Any]] = [[2, 4], [6, 100]]
    if name == "bool":
        want = [[False, True], [True, False]]
    assert (answer["dtype"], answer["shape"], answer["values"]) == (name, [2, 2], want)
    # Clients read the fields directly too.
    flat = [number for row in want for number in row]
    if field == "half_val":
        flat = {"float16": [0x4000, 0x4400, 0x4600, 0x5640], "bfloat16": [0x4000, 0x4080, 0x40C0, 0x42C8]}[name]
    assert (answer["field"], answer["content"]) == (flat, 0)


@pytest.mark.parametrize("name", [name for name, _ in DTYPES.values()])
def test_one_value_stands_for_many(results: dict[str, Any], name: str) -> None:
    answer = results[f"{name} repeated"]
    assert answer["shape"] == [3, 2]
    assert answer["values"] == [[name == "bool" or 4] * 2] * 3
    assert len(answer["field"]) == 6


@pytest.mark.parametrize("name", [name for name, _ in DTYPES.values()])
def test_a_batch_of_none_is_answered_with_none(results: dict[str, Any], name: str) -> None:
    answer = results[f"{name} empty"]
    assert (answer["dtype"], answer["shape"], answer["values"], answer["field"]) == (name, [0, 2], [], [])


@pytest.mark.parametrize("name", [name for name, _ in DTYPES.values()])
def test_tensor_content_is_read_too(results: dict[str, Any], name: str) -> None:
    answer = results[f"{name} answered in content"]
    want = False if name == "bool" else 2
    assert (answer["dtype"], answer["shape"], answer["values"]) == (name, [2, 2], [[want] * 2] * 2)
    assert (answer["field"], answer["content"]) == ([], 4 * np.dtype(name).itemsize)


def test_strings_are_never_in_tensor_content(results: dict[str, Any]) -> None:
    # TensorFlow Serving puts them there, and TensorFlow's own make_ndarray cannot read them.
    answer = results["strings answered in content"]
    assert (answer["values"], answer["content"]) == (["ab", ""], 0)


def test_strings_go_both_ways(results: dict[str, Any]) -> None:
    words = ["", "plain", "ä€".encode().decode("latin-1"), "\x00\xff"]
    answer = results["strings"]
    assert answer["y"] == {"dtype": "string", "shape": [4], "values": words, "field": words, "content": 0}
    assert answer["length"] == [0, 5, 5, 2]
    assert results["strings repeated"]["y"]["values"] == ["ab", "ab", "ab"]
    assert results["strings as content, by TensorFlow"] == ["ab", "", "xyz"]
    assert results["strings as content"]["y"]["values"] == ["ab", "", "xyz"]


def test_the_answer_says_which_version_and_signature(results: dict[str, Any]) -> None:
    assert results["the newest version"] == ["two", 2, "serving_default", ""]
    assert results["a version"] == ["two", 1, "serving_default", ""]
    assert results["a label"] == ["two", 1, "serving_default", ""]
    assert results["another label"] == ["two", 2, "serving_default", ""]
    assert results["a signature"] == ["two", 2, "serving_default", ""]


def test_outputs_are_those_asked_for(results: dict[str, Any]) -> None:
    assert results["all outputs"] == {"total": [3.0], "doubled": [[2], [2]]}
    assert results["one output"] == {"doubled": [[2], [2]]}


def test_a_scalar_and_a_large_tensor_come_back(results: dict[str, Any]) -> None:
    scalar = results["a scalar out"]
    assert (scalar["shape"], scalar["values"], scalar["field"]) == ([], 7.0, [7.0])
    assert results["eight megabytes"] == 2 * (2 << 20)


ERRORS = {
    "no model_spec": ("INVALID_ARGUMENT", "Missing ModelSpec"),
    "no name": ("INVALID_ARGUMENT", "ModelSpec has no name specified."),
    "unknown model": ("NOT_FOUND", "Servable not found for request: Latest(absent)"),
    "unknown version": ("NOT_FOUND", "Servable not found for request: Specific(two, 9)"),
    "unknown label": ("INVALID_ARGUMENT", "Unrecognized servable version label: gold"),
    "unknown signature": ("FAILED_PRECONDITION", 'Serving signature key "other" not found.'),
    "no input": (
        "INVALID_ARGUMENT",
        "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: {}. Missing but required: {x}.",
    ),
    "an input too many": (
        "INVALID_ARGUMENT",
        "input size does not match signature: 2!=1 len({x,z}) != len({x}). Sent extra: {z}. Missing but required: {}.",
    ),
    "another input": ("INVALID_ARGUMENT", "not found in request"),
    "no tensor": ("INVALID_ARGUMENT", "tensor parsing error: x"),
    "another dtype": ("INVALID_ARGUMENT", "x"),
    "another shape": ("INVALID_ARGUMENT", "input 'x' has shape (1, 3); want (-1, 2)"),
    "an output that is not there": (
        "INVALID_ARGUMENT",
        "output tensor alias not found in signature: z Outputs expected to be in the set {doubled,total}.",
    ),
    "an output twice": ("INVALID_ARGUMENT", "duplicate output tensor alias: total"),
    "metadata without model_spec": ("INVALID_ARGUMENT", "Missing ModelSpec"),
    "metadata of nothing": ("INVALID_ARGUMENT", "GetModelMetadataRequest must specify at least one metadata_field"),
    "other metadata": ("INVALID_ARGUMENT", "Metadata field other is not supported"),
    "status of an unknown model": ("NOT_FOUND", "Could not find any versions of model absent"),
    "status of an unknown version": ("NOT_FOUND", "Could not find version 9 of model two"),
    "classify nothing": ("INVALID_ARGUMENT", "Input is empty"),
    "an inference of no kind": ("UNIMPLEMENTED", "tensorflow/serving/guess"),
    "reload of nothing": ("INVALID_ARGUMENT", ""),
    "reload with a name twice": ("INVALID_ARGUMENT", ""),
    "what went": ("NOT_FOUND", "Servable not found for request: Latest(two)"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_have_their_codes_and_texts(results: dict[str, Any], case: str) -> None:
    code, text = ERRORS[case]
    error = results[case]
    assert isinstance(error, dict), error
    assert error["code"] == code
    assert text in error["details"]


def test_metadata_unpacks_to_signatures(results: dict[str, Any]) -> None:
    metadata = results["metadata"]
    assert metadata["type_url"] == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    assert metadata["model_spec"] == ["crossing", 1]
    inputs = [["left", "left", "DT_FLOAT", [-1, 3]], ["right", "right", "DT_INT32", [2, -1]]]
    outputs = [["doubled", "doubled", "DT_INT32", [2, -1]], ["total", "total", "DT_FLOAT", [-1]]]
    assert metadata["signatures"] == {"serving_default": [inputs, outputs]}
    assert metadata["method_names"] == ["tensorflow/serving/predict"]
    ((words,), _) = results["metadata of strings"]["serving_default"]
    assert words == ["x", "x", "DT_STRING", [-1]]


def test_status_lists_the_versions(results: dict[str, Any]) -> None:
    assert results["status"] == [[1, "AVAILABLE", 0, ""], [2, "AVAILABLE", 0, ""]]
    assert results["status of a version"] == [[1, "AVAILABLE", 0, ""]]
    assert results["status by a label"] == results["status"]


def test_examples_are_classified_and_regressed(results: dict[str, Any]) -> None:
    assert results["classify"] == [[[["", 2.0], ["", 4.0]], [["", 6.0], ["", 8.0]]], "f32", 1]
    assert results["regress"] == [11.0, 22.0]
    assert results["regress with context"] == [11.0, 12.0]
    assert results["several inferences"] == [[[["", 2.0], ["", 4.0]]]]


def test_the_same_over_tls(results: dict[str, Any]) -> None:
    assert results["over TLS"] == [[2.0, 2.0]]


def test_answers_are_the_bytes_that_tensorflow_serving_would_write(results: dict[str, Any]) -> None:
    assert results["same bytes"] == {
        "PredictionService/Predict": True,
        "PredictionService/GetModelMetadata": True,
        "ModelService/GetModelStatus": True,
    }


def test_the_schema_is_tensorflow_servings(results: dict[str, Any]) -> None:
    assert results["schema"]["unlike"] == []
    # Read from files alone; its client does not have them.
    assert results["schema"]["unknown"] == ["BatchingParameters", "SSLConfig"]
    assert results["schema"]["compared"] > 100


def test_another_configuration_is_taken_over(results: dict[str, Any]) -> None:
    assert results["before the reload"] == "two"
    assert results["reload"] == [0, ""]
    assert results["what came"] == "new"


def test_every_case_is_looked_at(results: dict[str, Any]) -> None:
    unexpected = {name: result for name, result in results.items() if isinstance(result, dict) and "code" in result}
    assert json.dumps({name: unexpected[name] for name in sorted(unexpected.keys() - ERRORS.keys())}) == "{}"
