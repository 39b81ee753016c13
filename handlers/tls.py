"""The key and certificates with which gRPC listens, from files that settings name.

All is checked here: gRPC itself would only say that it cannot bind. No message shows what is in a file.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from handlers.settings import Settings, SettingsError


class Tls(NamedTuple):
    """All in PEM."""

    key: bytes
    certificate: bytes
    client_ca: bytes | None
    """Whose clients alone may call; None for any."""


class _Pem(NamedTuple):
    origin: str
    """For messages."""
    text: bytes


_FILES = ("grpc_tls_key_file", "grpc_tls_cert_file", "grpc_tls_client_ca_file")


def read_tls(settings: Settings) -> Tls | None:
    """Return what the settings name, or None for plain text.

    Raises:
        SettingsError: a file cannot be read, or is not what it should be.
    """
    given = [name for name in _FILES if getattr(settings, name)]
    if not given and not settings.ssl_config_file:
        return None
    if given and settings.ssl_config_file:
        raise SettingsError(f"ssl_config_file and {given[0]} are both given; want one of them")
    key, certificate, client_ca = _read_pem_files(settings, given) if given else _read_ssl_config(settings)
    _check_pair(key, certificate)
    if client_ca is not None:
        _check_certificates(client_ca)
    return Tls(key.text, certificate.text, client_ca and client_ca.text)


def _read_pem_files(settings: Settings, given: list[str]) -> tuple[_Pem, _Pem, _Pem | None]:
    key, certificate, client_ca = _FILES
    for name in (key, certificate):
        if name not in given:
            raise SettingsError(f"{given[0]} is given without {name}; want both")
    pems = {name: _read_pem(name, getattr(settings, name)) for name in given}
    return pems[key], pems[certificate], pems.get(client_ca)


def _read_pem(name: str, path: str) -> _Pem:
    return _Pem(f"{name} {path!r}", _read(name, path, "a PEM file"))


def _read_ssl_config(settings: Settings) -> tuple[_Pem, _Pem, _Pem | None]:
    from google.protobuf import text_format

    from runtime.codecs import schema

    path, wants = settings.ssl_config_file, "TensorFlow Serving's SSLConfig as text"
    text = _read("ssl_config_file", path, wants)
    try:
        config = text_format.Parse(text, schema.SSLConfig())
    except text_format.ParseError as exc:
        # Its own message quotes the file.
        where = f" in line {exc.GetLine()}" if exc.GetLine() else ""
        raise SettingsError(f"ssl_config_file {path!r} is no such text{where}; want {wants}") from None
    # As in TensorFlow Serving, custom_ca alone asks nothing of clients.
    wanted = ("server_key", "server_cert", "custom_ca") if config.client_verify else ("server_key", "server_cert")
    for name in wanted:
        if not getattr(config, name):
            why = " but client_verify" if name == "custom_ca" else ""
            raise SettingsError(f"ssl_config_file {path!r} has no {name}{why}; want the PEM text itself there")
    pems = [_Pem(f"{name} in ssl_config_file {path!r}", getattr(config, name).encode()) for name in wanted]
    return pems[0], pems[1], pems[2] if config.client_verify else None


def _read(name: str, path: str, wants: str) -> bytes:
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise SettingsError(f"{name} {path!r} cannot be read: {reason}; want {wants}") from exc
    if not content.strip():
        raise SettingsError(f"{name} {path!r} is empty; want {wants}")
    return content


def _check_pair(key: _Pem, certificate: _Pem) -> None:
    _check_certificates(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # How long a key has to be is for gRPC to say.
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with _in_memory(certificate.text) as certificate_path, _in_memory(key.text) as key_path:
        try:
            # Without a password given OpenSSL asks for one at the terminal.
            context.load_cert_chain(certificate_path, key_path, password="")
        except ssl.SSLError as exc:
            # The second is what OpenSSL says of a key of another kind than the certificate's.
            if exc.reason in ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
                raise SettingsError(f"{key.origin} does not belong to {certificate.origin}; want a pair") from exc
            raise SettingsError(f"{key.origin} has no key that can be read; want PEM without a password") from exc


def _check_certificates(pem: _Pem) -> None:
    text = pem.text.decode("ascii", errors="backslashreplace")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=text)
    except ssl.SSLError as exc:
        raise SettingsError(f"{pem.origin} has no certificate that can be read; want PEM") from exc


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """Give content a path, as OpenSSL wants one, and keep it from every disk."""
    with os.fdopen(os.memfd_create("pem"), "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"
