"""TLS on the port: who is let in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from handlers.tls import Tls
from tests.handlers.grpc_front import Y, listening, outcome, predict
from tests.runtime.servables import Stage, stage
from tests.servers.certificate import write_certificate
from tests.servers.processes import free_port


@dataclasses.dataclass(frozen=True)
class Identity:
    certificate: bytes
    key: bytes


@pytest.fixture
def identities(tmp_path: Path) -> list[Identity]:
    made = []
    for name in ("server", "client", "stranger"):
        (tmp_path / name).mkdir()
        certificate, key = write_certificate(tmp_path / name, is_authority=True)
        made.append(Identity(certificate.read_bytes(), key.read_bytes()))
    return made


@pytest.fixture
def s() -> Iterator[Stage]:
    with stage(1, 2) as made:
        yield made


def test_the_port_is_tls_and_plain_text_is_refused(s: Stage, identities: list[Identity], tmp_path: Path) -> None:
    own, _, stranger = identities
    port, path = free_port(), str(tmp_path / "grpc.sock")
    with listening(s.server, port, tls=Tls(own.key, own.certificate, None), socket_path=path):
        with grpc.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(own.certificate)) as channel:
            assert predict(channel) == Y
        with grpc.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(stranger.certificate)) as channel:
            assert outcome(predict, channel) is grpc.StatusCode.UNAVAILABLE
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert outcome(predict, channel) is grpc.StatusCode.UNAVAILABLE
        # The file system says who may use this one.
        with grpc.insecure_channel(f"unix:{path}") as channel:
            assert predict(channel) == Y


def test_with_an_authority_only_its_clients_may_call(s: Stage, identities: list[Identity]) -> None:
    own, client, stranger = identities
    port = free_port()
    with listening(s.server, port, tls=Tls(own.key, own.certificate, client.certificate)):
        for identity, may in ((client, True), (stranger, False), (None, False)):
            pair = (identity.key, identity.certificate) if identity else (None, None)
            credentials = grpc.ssl_channel_credentials(own.certificate, *pair)
            with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
                if may:
                    assert predict(channel) == Y
                else:
                    assert outcome(predict, channel) is grpc.StatusCode.UNAVAILABLE
