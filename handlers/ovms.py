"""The ``ovms`` command: for command lines that were written for OpenVINO Model Server, with its defaults."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from handlers.cli import heed_signals, serve_with
from handlers.settings import has_port_of_platform, read_flags
from model_cache.timeline import timeline

DEFAULTS: Mapping[str, Any] = {
    "port": 9178,
    "rest_port": 0,
    "file_system_poll_wait_seconds": 1.0,
    # Clients that were written for it may look nowhere else.
    "enable_serialization_as_tensor_content": True,
}
CACHE = Path("/opt/cache")
"""Where OpenVINO Model Server keeps compiled models if there is such a directory."""


def main(argv: Sequence[str] | None = None) -> int:
    timeline.arrived("imports.cli")
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    heed_signals()
    flags = read_flags(arguments)
    if flags is None:
        from handlers.commands import parse_flags

        flags = parse_flags("ovms", arguments, complaint="error parsing options: ")
    return serve_with(flags, defaults(CACHE), "ovms", not_its_own())


def not_its_own() -> Collection[str]:
    """Return the variables that OpenVINO Model Server knows nothing of, and that manifests for it have for others."""
    return () if has_port_of_platform() else ("PORT",)


def defaults(cache: Path) -> Mapping[str, Any]:
    is_usable = cache.is_dir() and os.access(cache, os.W_OK | os.X_OK)
    return {**DEFAULTS, "cache_dir": str(cache)} if is_usable else DEFAULTS


if __name__ == "__main__":
    sys.exit(main())
