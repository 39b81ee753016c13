"""NVIDIA's tritonclient against the real server: what a user of theirs would see, over HTTP and gRPC."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.runtime import models
from tests.servers.client_process import ClientError
from tests.servers.decant import Decant
from tests.servers.open_inference_models import DATATYPES, LEFT, PIXELS, RIGHT, X, extremes, png, same, serving
from tests.servers.triton_client import Answer, Request, TritonClient, Wanted, triton_process

CODES = {"INVALID_ARGUMENT": "400", "NOT_FOUND": "404", "DEADLINE_EXCEEDED": "504", "UNIMPLEMENTED": "404"}
"""gRPC's statuses -> HTTP's."""


class Side(NamedTuple):
    directory: Path
    server: Decant
    http: TritonClient
    grpc: TritonClient


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    directory = tmp_path_factory.mktemp("triton")
    with serving(directory) as server, triton_process(directory) as process:
        yield Side(
            directory,
            server,
            TritonClient(process, "http", f"127.0.0.1:{server.rest_port}"),
            TritonClient(process, "grpc", server.grpc_address),
        )


@pytest.fixture(params=["http", "grpc"])
def client(request: pytest.FixtureRequest, side: Side) -> TritonClient:
    return side.http if request.param == "http" else side.grpc


def status(client: TritonClient, code: str) -> str:
    return CODES[code] if client.transport == "http" else f"StatusCode.{code}"


def words(*items: bytes) -> NDArray[Any]:
    array = np.empty(len(items), object)
    array[:] = items
    return array


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_goes_both_ways_as_bytes(client: TritonClient, datatype: str) -> None:
    x = extremes(datatype)
    answer = client.infer(datatype, {"x": x})
    (output,) = answer.response["outputs"]
    assert (output["name"], output["datatype"], [int(size) for size in output["shape"]]) == ("x", datatype, [2, 2])
    assert answer.arrays["x"].tobytes() == x.tobytes()
    if client.transport == "http":
        assert output["parameters"] == {"binary_data_size": x.nbytes}


@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize("is_binary", [False, True], ids=["from JSON", "from bytes"])
def test_every_datatype_comes_back_as_json(side: Side, datatype: str, is_binary: bool) -> None:
    if datatype == "BF16" and not is_binary:
        # This client refuses to write it; others do.
        given = {"name": "x", "datatype": "BF16", "shape": [1, 2], "data": [0.1, 3]}
        (output,) = side.server.post("/v2/models/BF16/infer", {"inputs": [given]}).body["outputs"]
        assert output["datatype"] == "BF16"
        assert same(np.array(output["data"], DATATYPES["BF16"]), np.array([0.1, 3], DATATYPES["BF16"]))
        return
    x = extremes(datatype)
    answer = side.http.infer(datatype, {"x": x}, is_binary=is_binary, outputs=[Wanted("x", is_binary=False)])
    assert "parameters" not in answer.response["outputs"][0]
    assert same(answer.arrays["x"], x)


@pytest.mark.parametrize("datatype", ["FP32", "BOOL", "UINT64"])
def test_a_batch_of_none_is_answered_with_none(client: TritonClient, datatype: str) -> None:
    x = extremes(datatype)[:0]
    assert same(client.infer(datatype, {"x": x}).arrays["x"], x)
    if client.transport == "http":
        (json, by_bytes) = (
            client.infer(datatype, {"x": x}, is_binary=is_binary, outputs=[Wanted("x", is_binary=not is_binary)])
            for is_binary in (False, True)
        )
        assert same(json.arrays["x"], x)
        assert same(by_bytes.arrays["x"], x)


def test_a_scalar_comes_back(client: TritonClient) -> None:
    answer = client.infer("summer", {"x": np.array([1, 2, 4], np.float32)})
    assert same(answer.arrays["total"], np.array(7, np.float32))


def test_strings_are_any_bytes(client: TritonClient) -> None:
    x = words(b"", b"plain", "ä€".encode(), b"\x00\xff")
    answer = client.infer("speller", {"x": x})
    assert {output["name"]: output["datatype"] for output in answer.response["outputs"]} == {
        "y": "BYTES",
        "length": "INT32",
    }
    assert answer.arrays["y"].tolist() == x.tolist()
    assert answer.arrays["length"].tolist() == [0, 5, 5, 2]
    # numpy's own strings are BYTES too.
    assert client.infer("speller", {"x": np.array([b"ab", b"c"])}).arrays["y"].tolist() == [b"ab", b"c"]


def test_strings_are_text_in_json(side: Side) -> None:
    wanted = [Wanted("y", is_binary=False)]
    answer = side.http.infer("speller", {"x": words(b"", "ä€".encode())}, is_binary=False, outputs=wanted)
    assert answer.arrays["y"].tolist() == ["", "ä€"]
    with pytest.raises(ClientError, match="binary_data") as caught:
        side.http.infer("speller", {"x": words(b"\xff")}, outputs=wanted)
    assert caught.value.status == "400"


def test_an_image_is_a_string(client: TritonClient) -> None:
    answer = client.infer("pixels", {"x": png(PIXELS)})
    # OpenVINO's models take BGR.
    assert answer.arrays["y"].tolist() == (2 * PIXELS[None, ..., ::-1]).tolist()


@pytest.mark.parametrize("names", [["total"], ["doubled"], ["doubled", "total"]])
def test_outputs_are_those_asked_for_in_that_order(client: TritonClient, names: list[str]) -> None:
    want = {"total": [6], "doubled": [[2], [4]]}
    answer = client.infer("crossing", {"right": RIGHT, "left": LEFT}, outputs=[Wanted(name) for name in names])
    assert [output["name"] for output in answer.response["outputs"]] == names
    assert {name: array.tolist() for name, array in answer.arrays.items()} == {name: want[name] for name in names}


def test_without_outputs_all_are_answered(client: TritonClient) -> None:
    answer = client.infer("crossing", {"left": LEFT, "right": RIGHT})
    assert {name: array.tolist() for name, array in answer.arrays.items()} == {"total": [6], "doubled": [[2], [4]]}


def test_one_output_is_json_and_the_other_bytes(side: Side) -> None:
    wanted = [Wanted("total", is_binary=False), Wanted("doubled", is_binary=True)]
    answer = side.http.infer("crossing", {"left": LEFT, "right": RIGHT}, outputs=wanted)
    assert answer.response["outputs"] == [
        {"name": "total", "datatype": "FP32", "shape": [1], "data": [6]},
        {"name": "doubled", "datatype": "INT32", "shape": [2, 1], "parameters": {"binary_data_size": 8}},
    ]
    assert answer.arrays["doubled"].tolist() == [[2], [4]]


def test_the_answer_says_who_has_answered_what(client: TritonClient) -> None:
    inputs = {"left": LEFT, "right": RIGHT}
    for asked, answered in (("", "2"), ("1", "1"), ("2", "2")):
        response = client.infer("crossing", inputs, model_version=asked, request_id="it's ä").response
        assert (response["model_name"], response["model_version"], response["id"]) == ("crossing", answered, "it's ä")
    assert not client.infer("crossing", inputs).response.get("id")


def test_parameters_that_mean_nothing_here_are_let_pass(client: TritonClient) -> None:
    parameters = {"mine": "ä", "number": 7, "half": 0.5, "is_so": True}
    answer = client.infer("doubler", {"x": X}, parameters=parameters, priority=3, timeout=30_000_000)
    assert answer.arrays["y"].tolist() == [[2, 2]]


@pytest.mark.parametrize(("classes", "want"), [(1, [(6, 1)]), (2, [(6, 1), (2, 0)]), (5, [(6, 1), (2, 0)])])
def test_classes_are_strings_of_value_and_index(
    client: TritonClient, classes: int, want: list[tuple[float, int]]
) -> None:
    answer = client.infer("doubler", {"x": np.array([[1, 3]], np.float32)}, outputs=[Wanted("y", classes=classes)])
    assert answer.response["outputs"][0]["datatype"] == "BYTES"
    (row,) = answer.arrays["y"].tolist()
    assert [(float(value), int(index)) for value, index in (item.split(b":") for item in row)] == want


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_bodies_may_be_compressed(client: TritonClient, algorithm: str) -> None:
    x = np.arange(200_000, dtype=np.float32).reshape(-1, 2)
    options = {"compression_algorithm": algorithm}
    if client.transport == "http":
        options = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
    for is_binary, rows in ((True, len(x)), (False, 100)):
        wanted = [Wanted("y", is_binary)]
        answer = client.infer("doubler", {"x": x[:rows]}, is_binary=is_binary, outputs=wanted, **options)
        assert same(answer.arrays["y"], 2 * x[:rows])


@pytest.mark.parametrize("by", ["async_infer", "stream_infer"])
def test_each_of_many_gets_its_own_answer(client: TritonClient, by: Any) -> None:
    if by == "stream_infer" and client.transport == "http":
        by = "infer"
    rows = [np.full((1 + number % 3, 2), number, np.float32) for number in range(64)]
    requests = [
        Request("doubler", {"x": x}, is_binary=number % 2 == 0, options={"request_id": str(number)})
        for number, x in enumerate(rows)
    ]
    for number, answer in enumerate(client.infer_many(requests, by=by)):
        assert isinstance(answer, Answer)
        assert answer.response["id"] == str(number)
        assert same(answer.arrays["y"], 2 * rows[number])


def test_a_stream_goes_on_after_an_error(side: Side) -> None:
    good, bad = Request("doubler", {"x": X}), Request("absent", {"x": X})
    wrong = Request("doubler", {"x": np.ones((1, 3), np.float32)})
    first, second, third, last = side.grpc.infer_many([good, bad, wrong, good], by="stream_infer")
    for answer in (first, last):
        assert isinstance(answer, Answer)
        assert answer.arrays["y"].tolist() == [[2, 2]]
    assert isinstance(second, ClientError)
    assert "absent" in second.message
    assert isinstance(third, ClientError)
    assert "(1, 3)" in third.message


def test_a_sequence_remembers(client: TritonClient) -> None:
    number = 7 if client.transport == "http" else 8
    steps = [
        client.infer("sum", {"x": X}, sequence_id=number, sequence_start=start, sequence_end=end).arrays["y"].tolist()
        for start, end in ((True, False), (False, False), (False, True))
    ]
    assert steps == [[[1, 1]], [[2, 2]], [[3, 3]]]
    with pytest.raises(ClientError, match="equence") as caught:
        client.infer("sum", {"x": X}, sequence_id=number)
    assert caught.value.status == status(client, "NOT_FOUND")


LONG = np.ones((1, 3), np.float32)
ERRORS: dict[str, tuple[str, dict[str, NDArray[Any]], dict[str, Any], str, str]] = {
    "unknown model": ("absent", {"x": X}, {}, "NOT_FOUND", "absent"),
    "unknown version": ("doubler", {"x": X}, {"model_version": "9"}, "NOT_FOUND", "9"),
    "no input": ("doubler", {}, {}, "INVALID_ARGUMENT", "x"),
    "one input of two": ("crossing", {"left": LEFT}, {}, "INVALID_ARGUMENT", "right"),
    "another input": ("doubler", {"z": X}, {}, "INVALID_ARGUMENT", "z"),
    "an input too many": ("doubler", {"x": X, "z": X}, {}, "INVALID_ARGUMENT", "z"),
    "another datatype": ("doubler", {"x": X.astype(np.int64)}, {}, "INVALID_ARGUMENT", "x.*INT64"),
    "another shape": ("doubler", {"x": LONG}, {}, "INVALID_ARGUMENT", r"x.*\(1, 3\)"),
    "another rank": ("doubler", {"x": X[0]}, {}, "INVALID_ARGUMENT", "x"),
    "too little time": ("doubler", {"x": X}, {"timeout": 1}, "DEADLINE_EXCEEDED", "deadline"),
    "an unknown output": ("doubler", {"x": X}, {"outputs": [Wanted("z")]}, "INVALID_ARGUMENT", "z"),
    "an output twice": ("doubler", {"x": X}, {"outputs": [Wanted("y"), Wanted("y")]}, "INVALID_ARGUMENT", "y"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_say_what_was_given_and_what_was_wanted(client: TritonClient, case: str) -> None:
    model, inputs, more, code, message = ERRORS[case]
    with pytest.raises(ClientError, match=message) as caught:
        client.infer(model, inputs, **more)
    assert (caught.value.kind, caught.value.status) == ("InferenceServerException", status(client, code))


def test_it_lives_and_is_ready(client: TritonClient) -> None:
    assert client.call("is_server_live") is True
    assert client.call("is_server_ready") is True
    assert client.call("is_model_ready", "doubler") is True
    assert client.call("is_model_ready", "crossing", "1") is True
    for asked in (("absent",), ("crossing", "9")):
        if client.transport == "http":
            assert client.call("is_model_ready", *asked) is False
        else:
            # As KServe's servers and OpenVINO Model Server answer.
            with pytest.raises(ClientError, match=asked[-1]) as caught:
                client.call("is_model_ready", *asked)
            assert caught.value.status == "StatusCode.NOT_FOUND"


def test_it_says_how_a_model_is_configured(client: TritonClient) -> None:
    config = client.call("get_model_config", "crossing")
    # Of gRPC it is a field of the answer.
    config = config.get("config", config)
    assert (config["name"], config["platform"], config["backend"]) == ("crossing", "openvino", "openvino")
    # JSON of protobuf's leaves out what is 0, and has numbers of 64 bits as strings.
    assert int(config.get("max_batch_size", 0)) == 0
    assert [
        {one["name"]: (one["data_type"], [int(size) for size in one.get("dims", [])]) for one in config[side]}
        for side in ("input", "output")
    ] == [
        {"left": ("TYPE_FP32", [-1, 3]), "right": ("TYPE_INT32", [2, -1])},
        {"total": ("TYPE_FP32", [-1]), "doubled": ("TYPE_INT32", [2, -1])},
    ]
    with pytest.raises(ClientError, match="absent") as caught:
        client.call("get_model_config", "absent")
    assert caught.value.status == status(client, "NOT_FOUND")


@pytest.mark.parametrize("datatype", DATATYPES)
def test_it_knows_the_types_of_a_configuration(side: Side, datatype: str) -> None:
    wanted = "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
    (input_,) = side.grpc.call("get_model_config", datatype)["config"]["input"]
    assert input_["data_type"] == wanted
    (input_,) = side.http.call("get_model_config", datatype)["input"]
    assert input_["data_type"] == wanted


def test_a_version_that_is_no_number_is_not_there(side: Side) -> None:
    for client, wanted in ((side.http, "404"), (side.grpc, "StatusCode.INVALID_ARGUMENT")):
        with pytest.raises(ClientError, match="new") as caught:
            client.infer("doubler", {"x": X}, model_version="new")
        assert caught.value.status == wanted


def test_it_says_what_it_is(client: TritonClient) -> None:
    metadata = client.call("get_server_metadata")
    assert metadata["name"] == "decant"
    assert re.fullmatch(r"\d+\.\d+\.\d+", metadata["version"])
    assert {"binary_tensor_data", "model_repository", "statistics"} <= set(metadata["extensions"])


def test_it_says_what_a_model_takes_and_gives(client: TritonClient) -> None:
    metadata = client.call("get_model_metadata", "crossing")
    assert (metadata["name"], metadata["versions"], metadata["platform"]) == ("crossing", ["1", "2"], "openvino")
    assert [tensors(metadata[side]) for side in ("inputs", "outputs")] == [
        {"left": ("FP32", [-1, 3]), "right": ("INT32", [2, -1])},
        {"total": ("FP32", [-1]), "doubled": ("INT32", [2, -1])},
    ]
    assert client.call("get_model_metadata", "speller")["inputs"][0]["datatype"] == "BYTES"
    assert tensors(client.call("get_model_metadata", "summer")["outputs"]) == {"total": ("FP32", [])}
    assert client.call("get_model_metadata", "crossing", "1")["name"] == "crossing"
    for asked in (("absent",), ("crossing", "9")):
        with pytest.raises(ClientError, match=asked[-1]) as caught:
            client.call("get_model_metadata", *asked)
        assert caught.value.status == status(client, "NOT_FOUND")


def tensors(told: list[dict[str, Any]]) -> dict[str, Any]:
    """Of gRPC 64-bit integers are text, and what is empty may be left out."""
    return {tensor["name"]: (tensor["datatype"], [int(size) for size in tensor.get("shape", [])]) for tensor in told}


def test_the_index_has_all_models(client: TritonClient) -> None:
    index = client.call("get_model_repository_index")
    rows = index if client.transport == "http" else index["models"]
    found = {(row["name"], row["version"]): row["state"] for row in rows}
    assert found[("crossing", "1")] == found[("crossing", "2")] == found[("FP32", "1")] == "READY"
    assert {name for name, _ in found} >= {*DATATYPES, "doubler", "speller", "sum"}


def test_a_model_is_loaded_anew_when_it_is_told_to(client: TritonClient, side: Side) -> None:
    name, element_type = ("UINT8", "u8") if client.transport == "http" else ("UINT16", "u16")
    assert client.call("get_model_metadata", name)["versions"] == ["1"]
    directory = models.save(models.identity(element_type), side.directory / "models" / name, 2)
    # What has only just been written would be given time to be complete.
    for path in (directory, *directory.iterdir()):
        os.utime(path, (0, 0))
    client.call("load_model", name)
    assert client.infer(name, {"x": extremes(name)}).response["model_version"] == "2"
    with pytest.raises(ClientError, match="absent"):
        client.call("load_model", "absent")


def test_what_is_unloaded_comes_back_when_it_is_asked_for(client: TritonClient, side: Side) -> None:
    name = "INT8" if client.transport == "http" else "INT16"
    client.call("unload_model", name)
    assert f"{name} is unloaded" in side.server.log()
    assert same(client.infer(name, {"x": extremes(name)}).arrays["x"], extremes(name))
    assert side.server.log().count(f"loaded {name}/1 ") == 2
    with pytest.raises(ClientError, match="absent"):
        client.call("unload_model", "absent")


@pytest.mark.parametrize("more", [{"config": "{}"}, {"config": "{}", "files": {"file:1/model.onnx": b"onnx"}}])
def test_a_client_brings_no_models_of_its_own(client: TritonClient, more: dict[str, Any]) -> None:
    with pytest.raises(ClientError, match=r"config|file") as caught:
        client.call("load_model", "doubler", **more)
    assert caught.value.status == status(client, "INVALID_ARGUMENT")


def test_it_counts(client: TritonClient) -> None:
    before = counted(client)
    client.infer("divider", {"x": np.ones(3, np.float32)})
    with pytest.raises(ClientError):
        client.infer("divider", {"x": X})
    after = counted(client)
    assert after["inference_count"] - before["inference_count"] == 3
    assert after["execution_count"] - before["execution_count"] == 1
    assert after["success"] - before["success"] == 1
    assert after["fail"] - before["fail"] == 1
    everything = client.call("get_inference_statistics")["model_stats"]
    assert {row["name"] for row in everything} >= {"divider", "doubler"}
    with pytest.raises(ClientError, match="absent"):
        client.call("get_inference_statistics", "absent")


def counted(client: TritonClient) -> dict[str, int]:
    (row,) = client.call("get_inference_statistics", "divider")["model_stats"]
    assert (row["name"], row["version"]) == ("divider", "1")
    counts = {name: int(row[name]) for name in ("inference_count", "execution_count")}
    return counts | {name: int(row["inference_stats"][name]["count"]) for name in ("success", "fail")}


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("get_trace_settings", []),
        ("get_log_settings", []),
        ("get_system_shared_memory_status", []),
        ("register_system_shared_memory", ["mine", "/mine", 16]),
    ],
)
def test_what_it_has_not_it_says(client: TritonClient, method: str, arguments: list[Any]) -> None:
    with pytest.raises(ClientError) as caught:
        client.call(method, *arguments)
    assert caught.value.status == status(client, "UNIMPLEMENTED")
    assert "exception occurred in the client" not in caught.value.message


def test_not_a_number_is_a_number(client: TritonClient) -> None:
    y = client.infer("divider", {"x": np.array([0, 1, -1], np.float32)}).arrays["y"]
    assert same(y, np.array([np.nan, np.inf, -np.inf], np.float32))
