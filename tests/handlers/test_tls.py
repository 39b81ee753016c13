"""The files that make gRPC's port TLS: which are read, and what is said of those that will not do."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from handlers.settings import Settings, SettingsError
from handlers.tls import read_tls
from tests.conftest import DIGITS
from tests.servers.certificate import write_certificate
from tests.servers.decant import decant_serve

PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8
TRADITIONAL = serialization.PrivateFormat.TraditionalOpenSSL
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
GARBAGE = "c2VjcmV0"
"""What a message must not show."""


class Pair(NamedTuple):
    certificate: Path
    key: Path

    @property
    def settings(self) -> Settings:
        return Settings(grpc_tls_key_file=str(self.key), grpc_tls_cert_file=str(self.certificate))

    @property
    def ssl_config(self) -> str:
        return f"server_key: {quoted(self.key)}\nserver_cert: {quoted(self.certificate)}\n"


def write_pair(directory: Path, key: PrivateKey, form: serialization.PrivateFormat = PKCS8) -> Pair:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a server with a key of its own kind")])
    now = datetime.datetime.now(datetime.UTC)
    lifetime = (now, now + datetime.timedelta(days=1))
    certificate = x509.CertificateBuilder(name, name, key.public_key(), 1, *lifetime).sign(key, hashes.SHA256())
    pair = Pair(directory / "own.crt", directory / "own.key")
    pair.certificate.write_bytes(certificate.public_bytes(PEM))
    pair.key.write_bytes(key.private_bytes(PEM, form, serialization.NoEncryption()))
    return pair


def quoted(path: Path) -> str:
    return json.dumps(path.read_text())


def written(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def given(settings: Settings, name: str, path: Path) -> Settings:
    changes: dict[str, Any] = {name: str(path)}
    return replace(settings, **changes)


def refusal(settings: Settings) -> str:
    with pytest.raises(SettingsError) as caught:
        read_tls(settings)
    message = str(caught.value)
    assert GARBAGE not in message
    assert "\n" not in message
    return message


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(*write_certificate(tmp_path))


@pytest.fixture
def other(tmp_path: Path) -> Pair:
    (tmp_path / "other").mkdir()
    return Pair(*write_certificate(tmp_path / "other"))


def test_without_files_it_is_plain_text() -> None:
    assert read_tls(Settings()) is None


def test_pem_files_are_read(pair: Pair, other: Pair) -> None:
    key, certificate = pair.key.read_bytes(), pair.certificate.read_bytes()
    assert read_tls(pair.settings) == (key, certificate, None)
    settings = Settings(
        grpc_tls_key_file=str(pair.key),
        grpc_tls_cert_file=str(pair.certificate),
        grpc_tls_client_ca_file=str(other.certificate),
    )
    assert read_tls(settings) == (key, certificate, other.certificate.read_bytes())


def test_tensorflow_servings_config_is_read(pair: Pair, other: Pair, tmp_path: Path) -> None:
    key, certificate, authority = (path.read_bytes() for path in (pair.key, pair.certificate, other.certificate))
    # Text that protobuf's own parser in C++ takes too: comments, either quote, strings in pieces.
    lines = pair.certificate.read_text().splitlines()
    pieces = "\n".join(f"'{line}\\n'" for line in lines)
    text = f"# Ours.\nserver_key: {quoted(pair.key)}\nserver_cert:\n{pieces}\n"
    assert read_tls(Settings(ssl_config_file=written(tmp_path / "a", text))) == (key, certificate, None)
    text += f"custom_ca: {quoted(other.certificate)}\n"
    # As in TensorFlow Serving, that alone asks nothing of clients.
    assert read_tls(Settings(ssl_config_file=written(tmp_path / "b", text))) == (key, certificate, None)
    text += "client_verify: true\n"
    assert read_tls(Settings(ssl_config_file=written(tmp_path / "c", text))) == (key, certificate, authority)


@pytest.mark.parametrize("algorithm", ["RSA of 1024 bits", "P-384", "traditional"])
def test_keys_of_other_kinds_fit_their_certificates(algorithm: str, tmp_path: Path) -> None:
    key: PrivateKey = ec.generate_private_key(ec.SECP384R1())
    if algorithm == "RSA of 1024 bits":
        key = rsa.generate_private_key(65537, 1024)
    own = write_pair(tmp_path, key, TRADITIONAL if algorithm == "traditional" else PKCS8)
    assert read_tls(own.settings) == (own.key.read_bytes(), own.certificate.read_bytes(), None)


def test_either_way_of_naming_files_and_not_both(pair: Pair, tmp_path: Path) -> None:
    config = written(tmp_path / "ssl.txt", pair.ssl_config)
    settings = Settings(ssl_config_file=config, grpc_tls_cert_file=str(pair.certificate))
    assert refusal(settings) == "ssl_config_file and grpc_tls_cert_file are both given; want one of them"


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("grpc_tls_key_file", "grpc_tls_cert_file"),
        ("grpc_tls_cert_file", "grpc_tls_key_file"),
        ("grpc_tls_client_ca_file", "grpc_tls_key_file"),
    ],
)
def test_a_key_and_a_certificate_come_together(name: str, missing: str, pair: Pair) -> None:
    assert refusal(given(Settings(), name, pair.key)) == f"{name} is given without {missing}; want both"


@pytest.mark.parametrize("name", ["grpc_tls_key_file", "grpc_tls_cert_file", "grpc_tls_client_ca_file"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file or directory; want a PEM file"),
        (b" \n", "is empty; want a PEM file"),
        (GARBAGE.encode(), "has no "),
        (b"\xff\xfe\x00", "has no "),
    ],
)
def test_a_file_that_will_not_do_is_named(
    name: str, content: bytes | None, reason: str, pair: Pair, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    assert f"{name} {str(path)!r} {reason}" in refusal(given(pair.settings, name, path))


def test_a_name_that_no_file_can_have_is_no_bug(pair: Pair) -> None:
    settings = Settings(grpc_tls_key_file="a\0b", grpc_tls_cert_file=str(pair.certificate))
    assert "cannot be read: embedded null byte" in refusal(settings)


def test_a_key_of_another_certificate_is_refused(pair: Pair, other: Pair) -> None:
    mixed = Pair(pair.certificate, other.key)
    want = f"grpc_tls_key_file '{other.key}' does not belong to grpc_tls_cert_file '{pair.certificate}'; want a pair"
    assert refusal(mixed.settings) == want


def test_a_key_of_another_kind_is_refused(pair: Pair, tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048)
    mixed = Pair(pair.certificate, write_pair(tmp_path, key).key)
    assert "does not belong to grpc_tls_cert_file" in refusal(mixed.settings)


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(pair: Pair) -> None:
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    pair.key.write_bytes(key.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"sesame")))
    assert refusal(pair.settings).endswith("has no key that can be read; want PEM without a password")


def test_a_chain_that_breaks_off_is_refused(pair: Pair) -> None:
    whole = pair.certificate.read_text()
    pair.certificate.write_text(whole[:-60])
    assert "grpc_tls_cert_file" in refusal(pair.settings)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("", "is empty; want TensorFlow Serving's SSLConfig as text"),
        (f"server_key: '{GARBAGE}", "is no such text in line 1; want "),
        (f"server_cert: 'x'\n{GARBAGE}: 1", "is no such text in line 2; want "),
        (b"server_key: '\xff'", "is no such text; want TensorFlow Serving's SSLConfig as text"),
        ("server_cert: 'x'", "has no server_key; want the PEM text itself there"),
        ("server_key: 'x'", "has no server_cert; want the PEM text itself there"),
        (f"server_key: '{GARBAGE}' server_cert: '{GARBAGE}'", "server_cert in ssl_config_file"),
        (
            "server_key: 'x' server_cert: 'x' client_verify: true",
            "has no custom_ca but client_verify; want ",
        ),
    ],
)
def test_a_config_that_will_not_do_is_told_of_and_not_quoted(text: str | bytes, want: str, tmp_path: Path) -> None:
    message = refusal(Settings(ssl_config_file=written(tmp_path / "ssl.txt", text)))
    assert want in message
    assert str(tmp_path / "ssl.txt") in message


def test_in_a_config_too_the_key_has_to_fit(pair: Pair, other: Pair, tmp_path: Path) -> None:
    path = written(tmp_path / "ssl.txt", Pair(pair.certificate, other.key).ssl_config)
    assert refusal(Settings(ssl_config_file=path)) == (
        f"server_key in ssl_config_file {path!r} does not belong to "
        f"server_cert in ssl_config_file {path!r}; want a pair"
    )


def test_a_key_that_does_not_fit_fails_the_start_in_one_line(pair: Pair, other: Pair, tmp_path: Path) -> None:
    flags: list[str | Path] = ["--model_name", "digits", "--model_path", DIGITS]
    flags += ["--grpc_tls_key_file", other.key, "--grpc_tls_cert_file", pair.certificate]
    with decant_serve(tmp_path, *flags, wait=False) as server:
        assert server.process.wait(30) == 64
    (line,) = server.log().splitlines()
    assert "does not belong to grpc_tls_cert_file" in line
    assert "PRIVATE" not in line
