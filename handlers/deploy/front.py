"""What follows for Decant where a platform is in front of it: it speaks TLS to clients, plain text to the container,
and knows how many requests an instance takes at a time."""

from __future__ import annotations

from handlers.deploy.manifest import Manifest
from handlers.deploy.parse import ManifestError
from handlers.settings import PREFIX, Settings, kinds

_TLS = ("ssl_config_file", "grpc_tls_key_file", "grpc_tls_cert_file", "grpc_tls_client_ca_file")
_SETTING = "max_in_flight"
_RESERVE = 64
"""Requests beside the platform's: whoever asks for metrics, and what the platform has given up and Decant not yet."""


def front(manifest: Manifest, platform: str) -> dict[str, str]:
    """Return the variables that have Decant take as many requests as the platform sends it.

    Args:
        platform: its name.

    Raises:
        ManifestError: settings would refuse those requests, or make the port TLS.
    """
    for name in _TLS:
        if name in manifest.settings:
            raise ManifestError(
                f"settings.{name} makes the port TLS, and {platform} speaks plain text to the container, "
                "behind a TLS of its own; want it left out"
            )
    given = manifest.settings.get(_SETTING)
    if given is not None and kinds()[_SETTING].parse(given) < manifest.concurrency:
        raise ManifestError(
            f"settings.{_SETTING} is {given}; want concurrency, which is {manifest.concurrency}, at least: "
            f"{platform} sends an instance so many requests, and the others would be refused"
        )
    wanted = manifest.concurrency + _RESERVE
    if given is not None or wanted <= Settings().max_in_flight:
        return {}
    return {PREFIX + _SETTING.upper(): str(wanted)}
