"""The key and certificates with which gRPC listens, from files that settings name."""

from __future__ import annotations

from typing import NamedTuple

from handlers.settings import Settings


class Tls(NamedTuple):
    """All in PEM."""

    key: bytes
    certificate: bytes
    client_ca: bytes | None
    """Whose clients alone may call; None for any."""


def read_tls(settings: Settings) -> Tls | None:
    """Return what the settings name, or None for plain text.

    Raises:
        SettingsError: a file cannot be read, or is not what it should be.
    """
    raise NotImplementedError
