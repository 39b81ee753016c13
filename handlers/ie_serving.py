"""The ``ie_serving`` command: for command lines of OpenVINO Model Server's ancestor in Python, with its defaults."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from handlers.cli import heed_signals, serve_with
from handlers.ovms import DEFAULTS, not_its_own
from handlers.settings import read_flags
from model_cache.timeline import timeline

COMMANDS = {"model": "serve one model, which flags describe", "config": "serve the models of a file"}


def main(argv: Sequence[str] | None = None) -> int:
    timeline.arrived("imports.cli")
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    heed_signals()
    flags = read_flags(arguments[1:]) if arguments[0] in COMMANDS else None
    if flags is None:
        from handlers.commands import parse_flags

        flags = parse_flags("ie_serving", arguments, commands=COMMANDS)
    defaults = {**DEFAULTS, "port": 9000}
    return serve_with(_translated(flags), defaults, f"ie_serving {arguments[0]}", not_its_own())


def _translated(flags: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the flags by what they do here: its workers were threads, any number of them, with or without a port."""
    given = {name: text for name, text in flags.items() if text is not None}
    threads = given.pop("grpc_workers", None)
    rest_threads = given.pop("rest_workers", None)
    translated: dict[str, str | None] = {"grpc_max_threads": threads, **given}
    if rest_threads is not None and given.get("rest_port", "0") != "0":
        # One thread is what it had at the least, and OpenVINO Model Server two.
        translated["rest_workers"] = "2" if rest_threads == "1" else rest_threads
    return translated


if __name__ == "__main__":
    sys.exit(main())
