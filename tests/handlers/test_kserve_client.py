"""The kserve package's clients against the real server: what a user of theirs would see, over HTTP and gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.servers.client_process import ClientError
from tests.servers.kserve_client import KServeClient, kserve_process
from tests.servers.open_inference_models import DATATYPES, LEFT, PIXELS, RIGHT, X, extremes, png, same, serving

# The package knows no BF16.
KNOWN = [datatype for datatype in DATATYPES if datatype != "BF16"]
BOTH = {"left": LEFT, "right": RIGHT}


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, KServeClient]]:
    directory = tmp_path_factory.mktemp("kserve")
    with serving(directory) as server, kserve_process(directory) as process:
        yield {
            "http": KServeClient(process, "http", server.rest_url),
            "grpc": KServeClient(process, "grpc", server.grpc_address),
        }


@pytest.fixture(params=["http", "grpc"])
def client(request: pytest.FixtureRequest, clients: dict[str, KServeClient]) -> KServeClient:
    return clients[request.param]


def forms() -> Iterator[tuple[str, str, bool]]:
    """Of each transport and datatype, whether it is sent as bytes."""
    for transport in ("http", "grpc"):
        for datatype in KNOWN:
            yield transport, datatype, True
            # Of which it takes no other form.
            if datatype != "FP16":
                yield transport, datatype, False


@pytest.mark.parametrize(("transport", "datatype", "is_binary"), list(forms()))
def test_every_datatype_goes_both_ways(
    clients: dict[str, KServeClient], transport: str, datatype: str, is_binary: bool
) -> None:
    x = extremes(datatype)
    if transport == "http" and not is_binary and x.dtype.kind == "f":
        # Its JSON has no others.
        x = np.nan_to_num(x, nan=1, posinf=np.finfo(x.dtype).max)
    # Over HTTP bytes come if they are asked for, over gRPC always.
    parameters = {"binary_data_output": True} if transport == "http" and is_binary else None
    answer = clients[transport].infer(datatype, {"x": x}, is_binary=is_binary, parameters=parameters)
    assert same(answer.arrays["x"], x)
    assert answer.binary == {"x": is_binary or transport == "grpc"}


def test_numbers_that_are_none_come_back_as_bytes(clients: dict[str, KServeClient]) -> None:
    x = np.array([0, 1, -1], np.float32)
    answer = clients["http"].infer("divider", {"x": x}, parameters={"binary_data_output": True})
    assert same(answer.arrays["y"], np.array([np.nan, np.inf, -np.inf], np.float32))


@pytest.mark.parametrize("is_binary", [False, True], ids=["typed", "raw"])
def test_a_batch_of_none_is_answered_with_none(client: KServeClient, is_binary: bool) -> None:
    assert same(client.infer("FP32", {"x": X[:0]}, is_binary=is_binary).arrays["x"], X[:0])


@pytest.mark.parametrize("is_binary", [False, True], ids=["typed", "raw"])
def test_strings_go_both_ways(client: KServeClient, is_binary: bool) -> None:
    words = np.array([b"", b"plain", "ä€".encode()], object)
    parameters = {"binary_data_output": is_binary} if client.transport == "http" else None
    answer = client.infer("speller", {"x": words}, is_binary=is_binary, parameters=parameters)
    texts = [item.encode() if isinstance(item, str) else item for item in answer.arrays["y"]]
    assert texts == words.tolist()
    assert answer.arrays["length"].tolist() == [0, 5, 5]


def test_strings_may_be_any_bytes(clients: dict[str, KServeClient]) -> None:
    """Over HTTP this client reads them as text even if they come as bytes."""
    words = np.array([b"\x00\xff", b"\xfe"], object)
    assert clients["grpc"].infer("speller", {"x": words}).arrays["y"].tolist() == words.tolist()
    answer = clients["http"].infer("speller", {"x": words}, outputs={"length": None})
    assert answer.arrays["length"].tolist() == [2, 1]


def test_an_image_is_a_string(client: KServeClient) -> None:
    answer = client.infer("pixels", {"x": png(PIXELS)})
    # OpenVINO's models take BGR.
    assert answer.arrays["y"].tolist() == (2 * PIXELS[None, ..., ::-1]).tolist()


def test_outputs_are_those_asked_for(client: KServeClient) -> None:
    assert {name: array.tolist() for name, array in client.infer("crossing", BOTH).arrays.items()} == {
        "total": [6],
        "doubled": [[2], [4]],
    }
    for form in (None, {"binary_data": True}, {"binary_data": False}):
        answer = client.infer("crossing", BOTH, outputs={"doubled": form})
        assert {name: array.tolist() for name, array in answer.arrays.items()} == {"doubled": [[2], [4]]}
        if client.transport == "http":
            assert answer.binary == {"doubled": bool(form and form["binary_data"])}


def test_the_answer_says_who_has_answered_what(client: KServeClient) -> None:
    answer = client.infer("crossing", BOTH, request_id="it's ä")
    assert (answer.id, answer.model_name) == ("it's ä", "crossing")
    # Over HTTP it keeps it to itself.
    assert answer.model_version == ("2" if client.transport == "grpc" else None)


def test_a_version_may_be_asked_for(clients: dict[str, KServeClient]) -> None:
    assert clients["grpc"].infer("crossing", BOTH, model_version="1").model_version == "1"
    with pytest.raises(ClientError, match="9") as caught:
        clients["grpc"].infer("crossing", BOTH, model_version="9")
    assert caught.value.status == "StatusCode.NOT_FOUND"


def test_parameters_that_mean_nothing_here_are_let_pass(client: KServeClient) -> None:
    parameters = {"mine": "ä", "number": 7, "is_so": True}
    assert client.infer("doubler", {"x": X}, parameters=parameters).arrays["y"].tolist() == [[2, 2]]


def test_a_sequence_remembers(client: KServeClient) -> None:
    number = 5 if client.transport == "http" else 6
    start, end = {"sequence_start": True}, {"sequence_end": True}
    for step, more in enumerate((start, {}, end), start=1):
        answer = client.infer("sum", {"x": X}, parameters={"sequence_id": number, **more})
        assert answer.arrays["y"].tolist() == [[step, step]]


def test_it_lives_and_is_ready(client: KServeClient) -> None:
    assert client.call("is_server_live") is True
    assert client.call("is_server_ready") is True
    assert client.call("is_model_ready", "crossing") is True
    if client.transport == "http":
        assert client.call("is_model_ready", "absent") is False
    else:
        with pytest.raises(ClientError, match="absent") as caught:
            client.call("is_model_ready", "absent")
        assert caught.value.status == "StatusCode.NOT_FOUND"


ERRORS: dict[str, tuple[str, dict[str, NDArray[Any]], dict[str, Any], int, str]] = {
    "unknown model": ("absent", {"x": X}, {}, 404, "absent"),
    "another input": ("doubler", {"z": X}, {}, 400, "z"),
    "one input of two": ("crossing", {"left": LEFT}, {}, 400, "right"),
    "another datatype": ("doubler", {"x": X.astype(np.int64)}, {}, 400, "x.*INT64"),
    "another shape": ("doubler", {"x": np.ones((1, 3), np.float32)}, {}, 400, r"x.*\(1, 3\)"),
    "an unknown output": ("doubler", {"x": X}, {"outputs": {"z": None}}, 400, "z"),
}
CODES = {404: "StatusCode.NOT_FOUND", 400: "StatusCode.INVALID_ARGUMENT"}


@pytest.mark.parametrize("is_binary", [False, True], ids=["typed", "raw"])
@pytest.mark.parametrize("case", ERRORS)
def test_errors_say_what_was_given_and_what_was_wanted(client: KServeClient, case: str, is_binary: bool) -> None:
    model, inputs, more, status, message = ERRORS[case]
    with pytest.raises(ClientError, match=message) as caught:
        client.infer(model, inputs, is_binary=is_binary, **more)
    assert caught.value.status == (CODES[status] if client.transport == "grpc" else str(status))
