"""Ports, certificates, endpoints, clocks and proxies, with real sockets."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from handlers.doctor.certificates import check_tls
from handlers.doctor.endpoints import Endpoint, check_clock, check_endpoint, check_proxies, endpoint_of
from handlers.doctor.finding import Level
from handlers.doctor.listening import check_ports
from model_cache.storage import StorageOptions
from tests.conftest import DIGITS
from tests.handlers.doctor.sites import levels, one, site_of
from tests.servers.certificate import write_certificate
from tests.servers.decant import decant_serve
from tests.servers.processes import free_port


class _Late(http.server.BaseHTTPRequestHandler):
    """Refuses all, at another time."""

    skew = 0.0

    def do_HEAD(self) -> None:
        self.send_error(403)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate(time.time() + self.skew, usegmt=True)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def store_that_is(skew: float) -> Iterator[Endpoint]:
    handler = type("Late", (_Late,), {"skew": skew})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Endpoint("s3", f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("skew", "level", "says"),
    [
        (0.0, Level.OK, "within"),
        (300.0, Level.WARNING, "behind"),
        (-300.0, Level.WARNING, "ahead of"),
        (1200.0, Level.PROBLEM, "RequestTimeTooSkewed"),
        (-1200.0, Level.PROBLEM, "RequestTimeTooSkewed"),
    ],
)
def test_the_stores_clock_is_compared_with_ours(skew: float, level: Level, says: str) -> None:
    with store_that_is(skew) as endpoint:
        found = list(check_endpoint(site_of(), endpoint))
    assert levels(found) == {"endpoint": Level.OK, "clock.skew": level}
    assert says in one(found, "clock.skew").detail


def test_an_endpoint_that_refuses_or_has_no_address_is_told() -> None:
    refused = one(check_endpoint(site_of(), Endpoint("s3", f"http://127.0.0.1:{free_port()}")), "endpoint")
    assert (refused.level, refused.detail) == (Level.PROBLEM, "cannot be reached: Connection refused")
    nowhere = one(check_endpoint(site_of(), Endpoint("az", "https://no.such.host.invalid")), "endpoint")
    assert nowhere.level is Level.PROBLEM
    assert "cannot be reached" in nowhere.detail


def test_an_endpoint_that_accepts_and_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handlers.doctor.endpoints._PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = Endpoint("s3", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "no answer" in one(check_endpoint(site_of(), endpoint), "endpoint").detail


def test_an_endpoint_behind_a_proxy_is_asked_through_it_unless_no_proxy_has_it() -> None:
    with store_that_is(0.0) as proxy:
        environ = {"HTTP_PROXY": proxy.url}
        behind = Endpoint("s3", "http://store.invalid:9000")
        assert levels(check_endpoint(site_of(environ), behind))["endpoint"] is Level.OK
        for without in ("store.invalid", ".invalid", "*", "x,.invalid:80"):
            outside = site_of({**environ, "NO_PROXY": without})
            assert levels(check_endpoint(outside, behind))["endpoint"] is Level.PROBLEM


@pytest.mark.parametrize(
    ("url", "environ", "address"),
    [
        ("s3://b/p", {"AWS_REGION": "eu-west-1"}, "https://s3.eu-west-1.amazonaws.com"),
        ("s3://b/p", {"AWS_REGION": "cn-north-1"}, "https://s3.cn-north-1.amazonaws.com.cn"),
        ("s3://b/p", {}, "https://s3.amazonaws.com"),
        ("s3://minio:9000/b/p", {}, "http://minio:9000"),
        ("gs://b/p", {}, "https://storage.googleapis.com"),
        ("gs://b/p", {"STORAGE_EMULATOR_HOST": "localhost:4443"}, "http://localhost:4443"),
        ("az://c/p", {"AZURE_STORAGE_ACCOUNT": "acc"}, "https://acc.blob.core.windows.net"),
        (
            "azure://c/p",
            {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=acc;AccountKey=a2V5;BlobEndpoint=http://127.0.0.1:1/acc"},
            "http://127.0.0.1:1",
        ),
    ],
)
def test_where_a_store_is_asked_follows_from_url_and_variables(url: str, environ: dict[str, str], address: str) -> None:
    found = endpoint_of(url, StorageOptions(environ=environ))
    assert found is not None
    assert found.url == address


def test_a_directory_has_no_endpoint() -> None:
    assert endpoint_of("/models", StorageOptions()) is None
    assert endpoint_of("az://c/p", StorageOptions()) is None


def test_a_proxy_that_metadata_would_be_asked_through_is_told_without_its_password() -> None:
    environ = {"HTTP_PROXY": "http://me:password@proxy.example:3128/"}
    found = list(check_proxies(site_of(environ), ["s3", "gs"]))
    assert [finding.level for finding in found] == [Level.OK, Level.WARNING, Level.WARNING]
    assert "proxy.example:3128" in found[0].detail
    assert "password" not in str(found)
    fine = {**environ, "NO_PROXY": "169.254.169.254,metadata.google.internal"}
    assert levels(check_proxies(site_of(fine), ["s3", "gs"])) == {"proxies": Level.OK}
    assert levels(check_proxies(site_of(), ["s3"])) == {"proxies": Level.OK}


def test_a_clock_that_runs_is_good() -> None:
    assert levels(check_clock(site_of())) == {"clock": Level.OK}


def test_ports_that_are_taken_are_told_and_those_that_are_not_left_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken, free = other.getsockname()[1], free_port()
        site = site_of(rest_port=taken, port=free, rest_bind_address="127.0.0.1", grpc_bind_address="127.0.0.1")
        found = {finding.title: finding.level for finding in check_ports(site) if finding.id == "ports"}
    assert found == {f"port {taken}": Level.PROBLEM, f"port {free}": Level.OK}
    socket.create_server(("127.0.0.1", free)).close()


def test_beside_a_server_its_own_ports_are_no_problem(tmp_path: Path) -> None:
    flags = ("--model_name", "digits", "--model_path", DIGITS, "--rest_bind_address", "127.0.0.2")
    with decant_serve(tmp_path, *flags, wait=False) as server:
        for address, port in (("127.0.0.2", server.rest_port), ("127.0.0.1", server.grpc_port)):
            wait_for(address, port)
        site = site_of(rest_port=server.rest_port, rest_bind_address="127.0.0.2", port=server.grpc_port)
        found = list(check_ports(site))
        # As of a server with gRPC alone, which does not say whose it is.
        of_grpc = list(check_ports(site_of(rest_port=0, port=server.grpc_port)))
    assert levels([*found, *of_grpc]) == {"ports": Level.OK}
    assert all("as a Decant serves here" in each.detail for each in (*found, *of_grpc))


def wait_for(address: str, port: int) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            socket.create_connection((address, port)).close()
            return
        except ConnectionRefusedError:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_addresses_and_sockets_that_cannot_be_had_are_told(tmp_path: Path) -> None:
    site = site_of(
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
        rest_port=free_port(),
        rest_bind_address="192.0.2.1",
        port=free_port(),
        grpc_bind_address="127.0.0.1",
        grpc_socket_path=str(tmp_path / "no" / "socket"),
    )
    told = list(check_ports(site))
    assert told[0].detail == "192.0.2.1 is no address of this machine"
    found = levels(told)
    assert found == {"ports": Level.PROBLEM, "ports.address": Level.WARNING, "ports.socket": Level.PROBLEM}
    good = site_of(rest_port=0, port=0, grpc_socket_path=str(tmp_path / "socket"))
    assert levels(check_ports(good)) == {"ports.socket": Level.OK}


def test_a_function_has_no_ports() -> None:
    site = site_of({"AWS_LAMBDA_FUNCTION_NAME": "f"}, rest_port=1)
    assert "none is listened on" in one(check_ports(site), "ports").detail


def write_pair(directory: Path, begins: float, ends: float) -> dict[str, Any]:
    """Write a certificate that is valid between two moments, in days from now, and return the settings for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "old")]), datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=begins))
        .not_valid_after(now + datetime.timedelta(days=ends))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (directory / "crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (directory / "key").write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    return {"grpc_tls_key_file": str(directory / "key"), "grpc_tls_cert_file": str(directory / "crt")}


@pytest.mark.parametrize(
    ("begins", "ends", "level", "says"),
    [
        (-1, 90, Level.OK, "valid until"),
        (-1, 5, Level.WARNING, "expires on"),
        (-9, -1, Level.PROBLEM, "has expired"),
        (1, 90, Level.PROBLEM, "is not valid yet"),
    ],
)
def test_the_validity_of_a_certificate_is_told(
    begins: float, ends: float, level: Level, says: str, tmp_path: Path
) -> None:
    found = one(check_tls(site_of(**write_pair(tmp_path, begins, ends))), "tls.validity")
    assert (found.level, says in found.detail) == (level, True), found


def test_a_certificate_that_vouches_for_itself_is_good_for_a_day(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    site = site_of(grpc_tls_key_file=str(key), grpc_tls_cert_file=str(certificate))
    assert levels(check_tls(site)) == {"tls.validity": Level.WARNING}


def test_a_key_of_another_certificate_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    pair, other = write_pair(tmp_path / "a", -1, 90), write_pair(tmp_path / "b", -1, 90)
    site = site_of(**{**pair, "grpc_tls_key_file": other["grpc_tls_key_file"]})
    assert levels(check_tls(site)) == {"tls": Level.PROBLEM}
    assert levels(check_tls(site_of())) == {"tls": Level.OK}
