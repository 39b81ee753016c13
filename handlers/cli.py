"""The ``decant`` command, as far as ``decant serve`` needs it: all else it can do is in `handlers.commands`.

What takes long to import is imported by who needs it: until `main` runs, a signal is lost or kills.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from types import FrameType
from typing import Any

from handlers.exits import STOP_SIGNALS, USAGE
from handlers.settings import SettingsError, read_flags, read_settings, without_effect, worker_channel
from model_cache.timeline import span, timeline


def main(argv: Sequence[str] | None = None) -> int:
    timeline.arrived("imports.cli")
    arguments = list(sys.argv[1:] if argv is None else argv)
    # OpenVINO Model Server has flags only, and a container may be set up by its environment alone.
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version")):
        arguments.insert(0, "serve")
    # An image has one entry point.
    if arguments[0] == "ovms":
        from handlers import ovms

        return ovms.main(arguments[1:])
    if arguments[0] == "ie_serving":
        from handlers import ie_serving

        return ie_serving.main(arguments[1:])
    if arguments[0] == "serve":
        heed_signals()
        flags = read_flags(arguments[1:])
        if flags is not None:
            return serve_with(flags)
    from handlers.commands import run

    return run(arguments)


def serve_with(
    flags: Mapping[str, str | None],
    defaults: Mapping[str, Any] | None = None,
    command: str = "decant serve",
    passed_over: Collection[str] = (),
) -> int:
    """Serve until a signal comes; return only if the settings cannot be.

    Args:
        flags: by field name, as typed.
        defaults: the command's, where they are not `Settings`' own.
        command: whose help says more.
        passed_over: variables that do not count.
    """
    try:
        with span("configure"):
            settings = read_settings(flags, defaults, passed_over=passed_over)
            from handlers.logs import configure_logging, logger

            configure_logging(settings)
        channel = worker_channel()
        if channel is None:
            for line in without_effect(settings):
                logger.warning("%s", line)
        if settings.workers != 1 and channel is None:
            from handlers.workers import supervise

            supervise(settings)
        with span("imports.server"):
            from handlers.lifecycle import serve

        serve(settings, channel)
    except SettingsError as exc:
        print(f"{command.partition(' ')[0]}: {exc}; see {command} --help", file=sys.stderr)
        return USAGE


def heed_signals() -> None:
    """End at once on a signal, as long as there is nothing to drain; the server takes over when it listens."""
    for number in STOP_SIGNALS:
        signal.signal(number, _exit_at_once)


def _exit_at_once(number: int, frame: FrameType | None) -> None:
    os._exit(0 if number == signal.SIGTERM else 128 + number)


if __name__ == "__main__":
    sys.exit(main())
