"""What follows for Decant from the time that a platform gives a request, and the check that it does give it."""

from __future__ import annotations

from handlers.deploy.manifest import Manifest
from handlers.deploy.parse import ManifestError


def deadlines(manifest: Manifest, *, longest: int, window: int, platform: str) -> dict[str, str]:
    """Return the variables that have Decant answer 503 or 504 before the platform cuts the request.

    Args:
        longest: seconds that the platform lets a request take at most.
        window: seconds from SIGTERM to SIGKILL.
        platform: its name.

    Raises:
        ManifestError: the manifest has requests, or Decant, take longer than that.
    """
    if manifest.timeout > longest:
        raise ManifestError(f"timeout is {manifest.timeout} s; want {longest} at most, which is {platform}'s limit")
    _check(manifest, "load_timeout", manifest.timeout, "timeout, when the platform cuts the request")
    _check(manifest, "shutdown_timeout", window, f"the time that {platform} leaves after SIGTERM")
    load = max(manifest.timeout - 5, manifest.timeout / 2)
    rest = max(manifest.timeout - 1, manifest.timeout / 2)
    return {"DECANT_LOAD_TIMEOUT": f"{load:g}", "DECANT_REST_API_TIMEOUT_IN_MS": f"{rest * 1000:.0f}"}


def _check(manifest: Manifest, setting: str, end: int, what: str) -> None:
    given = manifest.settings.get(setting)
    if given is not None and float(given) >= end:
        raise ManifestError(f"settings.{setting} is {given} s; want less than {end}: {what}")
