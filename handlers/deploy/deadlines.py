"""What follows for Decant from the time that a platform gives a request, and the check that it does give it."""

from __future__ import annotations

from handlers.deploy.manifest import Manifest
from handlers.deploy.parse import ManifestError
from handlers.settings import Settings


def deadlines(manifest: Manifest, *, longest: int, window: int, platform: str) -> dict[str, str]:
    """Return the variables that have Decant answer 503 or 504 before the platform cuts the request, and end before it
    is killed.

    Args:
        longest: seconds that the platform lets a request take at most.
        window: seconds from SIGTERM to SIGKILL.
        platform: its name.

    Raises:
        ManifestError: the manifest has requests, or Decant, take longer than that.
    """
    if manifest.timeout > longest:
        raise ManifestError(f"timeout is {manifest.timeout} s; want {longest} at most, which is {platform}'s limit")
    cut = "timeout, when the platform cuts the request"
    _check(manifest, "load_timeout", manifest.timeout, cut)
    _check(manifest, "rest_api_timeout_in_ms", manifest.timeout * 1000, cut, "ms")
    _check(manifest, "shutdown_timeout", window, f"the time that {platform} leaves after SIGTERM")
    load = max(manifest.timeout - 5, manifest.timeout / 2)
    rest = max(manifest.timeout - 1, manifest.timeout / 2)
    variables = {"DECANT_LOAD_TIMEOUT": f"{load:g}", "DECANT_REST_API_TIMEOUT_IN_MS": f"{rest * 1000:.0f}"}
    if Settings().shutdown_timeout >= window:
        variables["DECANT_SHUTDOWN_TIMEOUT"] = f"{max(window - 1, window / 2):g}"
    return variables


def _check(manifest: Manifest, setting: str, end: int, what: str, unit: str = "s") -> None:
    given = manifest.settings.get(setting)
    if given is None:
        return
    is_endless = unit == "ms" and float(given) == 0
    if is_endless or float(given) >= end:
        said = "0, for no end" if is_endless else f"{given} {unit}"
        raise ManifestError(f"settings.{setting} is {said}; want less than {end}: {what}")
