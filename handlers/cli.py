"""The ``decant`` command.

What takes long to import is imported by the command that needs it: until `main` runs, a signal is lost or kills.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from handlers.logs import configure_logging
from handlers.settings import Settings, SettingsError, add_options, read_settings
from model_cache.errors import ModelCacheError
from runtime.errors import InferenceError

USAGE = 64
"""Exit code for a command line that makes no sense; from sysexits.h, as OpenVINO Model Server has it."""
FAILED = 1
_PATIENCE = 24 * 3600.0
_STORAGE_OPTIONS = ("s3_endpoint", "storage_client", "storage_anonymous")
_ONE_SHOT_OPTIONS = ("cache_dir", *_STORAGE_OPTIONS, "log_level")
_PULL_OPTIONS = (*_ONE_SHOT_OPTIONS, "disk_budget", "ready_marker")
_PULL_ALL_OPTIONS = (*_PULL_OPTIONS, "model_config_file")
_CACHE_OPTIONS = ("cache_dir", "disk_budget")


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        # Not at the top: it takes 30 ms, and serving starts with this module.
        from importlib.metadata import version

        print(f"Decant {version('decant')}\nOpenVINO backend {version('openvino')}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    # OpenVINO Model Server has flags only, and a container may be set up by its environment alone.
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version")):
        arguments.insert(0, "serve")
    if arguments[0] == "serve":
        _heed_signals()
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except SettingsError as exc:
        print(f"decant: {exc}; see decant {options.command} --help", file=sys.stderr)
        return USAGE
    except (ModelCacheError, InferenceError) as exc:
        print(f"decant: {exc}", file=sys.stderr)
        return FAILED
    return code


def _heed_signals() -> None:
    """End at once on a signal, as long as there is nothing to drain; the server takes over when it is imported."""
    signal.signal(signal.SIGTERM, _exit_at_once)
    signal.signal(signal.SIGINT, _exit_at_once)


def _exit_at_once(number: int, frame: FrameType | None) -> None:
    os._exit(0 if number == signal.SIGTERM else 128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="decant", description="OpenVINO models, poured on demand.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print versions and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("serve", help="serve a model over REST and gRPC; also what flags alone mean")
    add_options(command)
    command.set_defaults(run=_serve)
    command = commands.add_parser("predict", help="predict once, with a model or with a server that has it")
    command.add_argument("model", help="directory or URL of the model's versions, or http://HOST:PORT/v1/models/NAME")
    command.add_argument("request", help="file with the JSON that a client would POST; - for standard input")
    _add_one_shot_options(command)
    command.set_defaults(run=_predict)
    command = commands.add_parser("inspect", help="show a model's versions, sizes and signatures")
    command.add_argument("model", help="directory or URL of the model's versions")
    _add_one_shot_options(command)
    command.set_defaults(run=_inspect)
    command = commands.add_parser("pull", help="fetch models into the cache ahead: for an image, or an init container")
    command.add_argument("models", nargs="*", metavar="model", help="directory or URL of the model's versions")
    _add_version_option(command)
    add_options(command, only=_PULL_ALL_OPTIONS)
    command.set_defaults(run=_pull)
    _add_cache_commands(commands.add_parser("cache", help="show, check or remove what is in the cache directory"))
    return parser


def _add_cache_commands(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="cache_command", required=True, metavar="COMMAND")
    command = commands.add_parser("ls", help="list the versions, least recently used first")
    add_options(command, only=_CACHE_OPTIONS)
    command.set_defaults(run=_cache_ls)
    command = commands.add_parser("rm", help="remove versions that nobody uses")
    group = command.add_mutually_exclusive_group(required=True)
    group.add_argument("--all", action="store_true", help="all of them")
    group.add_argument("digests", nargs="*", default=[], metavar="digest", help="a version's digest, or its beginning")
    add_options(command, only=("cache_dir",))
    command.set_defaults(run=_cache_rm)
    command = commands.add_parser("verify", help="read versions and compare them with what was fetched")
    command.add_argument(
        "digests", nargs="*", metavar="digest", help="a version's digest, or its beginning; default all"
    )
    add_options(command, only=("cache_dir",))
    command.set_defaults(run=_cache_verify)


def _add_one_shot_options(parser: argparse.ArgumentParser) -> None:
    _add_version_option(parser)
    add_options(parser, only=_ONE_SHOT_OPTIONS)


def _add_version_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", type=int, help="number of the version; default: the newest")


def _serve(options: argparse.Namespace) -> int:
    settings = read_settings(vars(options))
    configure_logging(settings.log_level)
    from handlers.lifecycle import serve

    return serve(settings)


def _predict(options: argparse.Namespace) -> int:
    from handlers.one_shot import predict

    print(predict(_one_shot_settings(options), options.version, _read(options.request)).decode())
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from handlers.one_shot import describe

    for line in describe(_one_shot_settings(options), options.version):
        print(line)
    return 0


def _pull(options: argparse.Namespace) -> int:
    from handlers.stock import pull

    chosen = [_settings_of(model, options, _PULL_OPTIONS) for model in options.models]
    if options.model_config_file or not chosen:
        chosen.append(_settings(options, _PULL_ALL_OPTIONS))
    for settings in chosen:
        for line in pull(settings, options.version):
            print(line, flush=True)
    return 0


def _cache_ls(options: argparse.Namespace) -> int:
    from handlers.stock import show

    for line in show(_settings(options, _CACHE_OPTIONS)):
        print(line)
    return 0


def _cache_rm(options: argparse.Namespace) -> int:
    from handlers.stock import remove

    done = True
    for is_gone, line in remove(_settings(options, ("cache_dir",)), options.digests, all_of_them=options.all):
        print(line)
        done = done and is_gone
    return 0 if done else FAILED


def _cache_verify(options: argparse.Namespace) -> int:
    from handlers.stock import verify

    done = True
    for is_whole, line in verify(_settings(options, ("cache_dir",)), options.digests):
        print(line, flush=True)
        done = done and is_whole
    return 0 if done else FAILED


def _one_shot_settings(options: argparse.Namespace) -> Settings:
    return _settings_of(options.model, options, _ONE_SHOT_OPTIONS)


def _settings_of(model: str, options: argparse.Namespace, names: Sequence[str]) -> Settings:
    name = model.rstrip("/").rpartition("/")[2] or "model"
    return _settings(options, names, model_name=name, model_path=model, model_config_file="")


def _settings(options: argparse.Namespace, names: Sequence[str], **others: str) -> Settings:
    # Progress is for servers' logs; here the answer is what is wanted, unless somebody asks for more. And whoever waits
    # for it at a terminal says when it takes too long.
    given = {name: getattr(options, name) for name in names}
    # Nor is anything to be gained by an inference before the one inference there is.
    defaults = {"enable_model_warmup": False, "enable_signature_warmup": False}
    settings = read_settings({**given, **others}, {"log_level": "WARNING", "load_timeout": _PATIENCE, **defaults})
    configure_logging(settings.log_level)
    return settings


def _read(request: str) -> bytes:
    if request == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(request).read_bytes()
    except OSError as exc:
        raise SettingsError(f"cannot read the request {request}: {exc.strerror}") from exc


if __name__ == "__main__":
    sys.exit(main())
