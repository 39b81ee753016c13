"""Intel's ovmsclient, all that it can ask, over every transport that it has and we do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime import models
from tests.servers.certificate import write_certificate
from tests.servers.decant import Decant, decant_serve
from tests.servers.ovms_client import OvmsClient, OvmsClientError

LEFT = np.array([[1, 2, 3]], np.float32)
RIGHT = np.array([[1], [2]], np.int32)


class Side:
    """A server, and what its clients need to know of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("server", "client", "stranger"):
            (directory / name).mkdir()
            write_certificate(directory / name, is_authority=True)
        models.save(models.crossing(), directory / "crossing")
        models.save(models.crossing(), directory / "crossing", 2)
        self.flags: list[str | Path] = ["--model_name", "crossing", "--model_path", directory / "crossing"]
        self.ssl_config = directory / "ssl_config.txt"
        files = {
            "server_key": "server/server.key",
            "server_cert": "server/server.crt",
            "custom_ca": "client/server.crt",
        }
        lines = [f"{name}: {json.dumps((directory / file).read_text())}" for name, file in files.items()]
        self.ssl_config.write_text("\n".join([*lines, "client_verify: true"]))

    def tls(self, client: str) -> dict[str, str]:
        return {
            "server_cert_path": str(self.directory / "server" / "server.crt"),
            "client_cert_path": str(self.directory / client / "server.crt"),
            "client_key_path": str(self.directory / client / "server.key"),
        }


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory) -> Side:
    return Side(tmp_path_factory.mktemp("ovms"))


@pytest.fixture(scope="module")
def secure(side: Side) -> Iterator[Decant]:
    with decant_serve(side.directory / "secure", *side.flags, "--ssl_config_file", side.ssl_config) as server:
        yield server


@pytest.fixture(scope="module")
def plain(side: Side) -> Iterator[Decant]:
    with decant_serve(side.directory / "plain", *side.flags, without_rest=True) as server:
        yield server


@pytest.fixture(params=["gRPC", "gRPC with TLS", "HTTP"])
def client(request: pytest.FixtureRequest, side: Side) -> OvmsClient:
    name: Any = "plain" if request.param == "gRPC" else "secure"
    server: Decant = request.getfixturevalue(name)
    if request.param == "gRPC":
        return OvmsClient(server.grpc_address)
    if request.param == "HTTP":
        return OvmsClient(f"127.0.0.1:{server.rest_port}", "http")
    return OvmsClient(server.grpc_address, tls=side.tls("client"))


def test_it_predicts(client: OvmsClient) -> None:
    for version in (0, 1):
        outputs = client.predict("crossing", {"left": LEFT, "right": RIGHT}, version)
        assert {name: array.tolist() for name, array in outputs.items()} == {"total": [6], "doubled": [[2], [4]]}


def test_it_reads_metadata(client: OvmsClient) -> None:
    for version, answered in ((0, 2), (1, 1)):
        metadata = client.metadata("crossing", version)
        if client.transport == "http":
            metadata = read_as_tensorflow_serving_has_it(metadata)
        assert metadata["model_version"] == answered
        assert metadata["inputs"] == {
            "left": {"shape": [-1, 3], "dtype": "DT_FLOAT"},
            "right": {"shape": [2, -1], "dtype": "DT_INT32"},
        }
        assert metadata["outputs"]["total"] == {"shape": [-1], "dtype": "DT_FLOAT"}


def read_as_tensorflow_serving_has_it(body: dict[str, Any]) -> dict[str, Any]:
    """Over HTTP the client looks for OpenVINO Model Server's own spelling, modelSpec, and else returns the body."""
    signature = body["metadata"]["signature_def"]["signature_def"]["serving_default"]
    read: dict[str, Any] = {"model_version": int(body["model_spec"]["version"])}
    for side in ("inputs", "outputs"):
        read[side] = {
            name: {"shape": [int(dim["size"]) for dim in info["tensor_shape"]["dim"]], "dtype": info["dtype"]}
            for name, info in signature[side].items()
        }
    return read


def test_it_reads_the_status(client: OvmsClient) -> None:
    available = {"state": "AVAILABLE", "error_code": 0, "error_message": ""}
    assert client.status("crossing", 1) == {1: available}
    assert client.status("crossing") == {1: available, 2: available}


def test_it_says_what_is_not_there(client: OvmsClient) -> None:
    asked = (
        lambda: client.predict("crossing", {"left": LEFT, "right": RIGHT}, 9),
        lambda: client.metadata("crossing", 9),
        lambda: client.status("absent"),
    )
    for ask in asked:
        with pytest.raises(OvmsClientError) as caught:
            ask()
        assert caught.value.kind == "ModelNotFoundError"


def test_it_says_what_does_not_fit(client: OvmsClient) -> None:
    with pytest.raises(OvmsClientError, match=r"\(1, 2\)") as caught:
        client.predict("crossing", {"left": LEFT[:, :2], "right": RIGHT})
    assert caught.value.kind == "InvalidInputError"


def test_a_stranger_is_not_let_in(side: Side, secure: Decant) -> None:
    for tls in (side.tls("stranger"), {"server_cert_path": side.tls("client")["server_cert_path"]}, None):
        with pytest.raises(OvmsClientError) as caught:
            OvmsClient(secure.grpc_address, timeout=5, tls=tls).status("crossing")
        assert caught.value.kind == "ConnectionError"
