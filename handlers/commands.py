"""All that the ``decant`` command can be asked for: arguments, output, exit codes.

What takes long to import is imported by the command that needs it.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from handlers.cli import serve_with
from handlers.exits import USAGE
from handlers.logs import configure_logging
from handlers.settings import OF_MODEL, SECONDS, Settings, SettingsError, add_options, read_settings
from model_cache.errors import ModelCacheError
from runtime.errors import InferenceError

FAILED = 1
_PATIENCE = 24 * 3600.0
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""What terminals obey. In JSON most of them are in no text, and all may be written by their numbers."""
_STORAGE_OPTIONS = ("s3_endpoint", "storage_client", "storage_anonymous")
_FETCH_OPTIONS = ("cache_dir", *_STORAGE_OPTIONS, "log_level")
_ONE_SHOT_OPTIONS = (*_FETCH_OPTIONS, *OF_MODEL)
_PULL_OPTIONS = (*_FETCH_OPTIONS, "disk_budget", "ready_marker")
_OF_SEVERAL = ("model_config_file", "model_config")
_PULL_ONE_OPTIONS = (*_PULL_OPTIONS, "model_version_policy")
_PULL_ALL_OPTIONS = (*_PULL_ONE_OPTIONS, "model_name", *_OF_SEVERAL)
_OF_THE_CACHE = ("cache_dir", "disk_budget")
_COMPILE_OPTIONS = (*_PULL_OPTIONS, *OF_MODEL, "plugin_config")
_CACHE_OPTIONS = _OF_THE_CACHE


class _Unheard(OSError):
    """Standard output takes nothing."""


class _Parser(argparse.ArgumentParser):
    def __init__(self, *, complaint: str = "", **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)
        self._complaint = complaint

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {self._complaint}{message}; see {self.prog} --help\n")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"Decant {version('decant')}\nOpenVINO backend {version('openvino')}")
        parser.exit()


def run(arguments: Sequence[str]) -> int:
    """Do what the arguments say; return the exit code."""
    options = _parser(arguments[0]).parse_args(arguments)
    try:
        code: int = options.run(options)
    except SettingsError as exc:
        print(f"decant: {exc}; see decant {options.command} --help", file=sys.stderr)
        return USAGE
    except (ModelCacheError, InferenceError) as exc:
        print(f"decant: {exc}", file=sys.stderr)
        return FAILED
    except _Unheard as exc:
        # What Python would write once more, at its end, goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        # Who closed the pipe has seen enough.
        if exc.errno != errno.EPIPE:
            print(f"decant: cannot write standard output: {exc.strerror}", file=sys.stderr)
        return FAILED
    return code


def parse_flags(
    program: str, arguments: Sequence[str], *, commands: Mapping[str, str] | None = None, complaint: str = ""
) -> dict[str, str | None]:
    """Return a server's flags by field name, as typed; end the process if help is asked for, or they make no sense.

    Args:
        program: its name.
        arguments: what follows that.
        commands: what must come before flags, and what each does; None for flags alone.
        complaint: what errors begin with.
    """
    parser = _Parser(prog=program, description="OpenVINO models, poured on demand.", complaint=complaint)
    parser.add_argument("--version", action=_Version, nargs=0, help="print versions and exit")
    if commands is None:
        add_options(parser)
        return vars(parser.parse_args(arguments))
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, text in commands.items():
        add_options(subparsers.add_parser(name, help=text))
    return vars(parser.parse_args(arguments))


def _parser(asked: str) -> argparse.ArgumentParser:
    """Return the parser, with the arguments of the command that is asked for; those of others take time for nothing."""
    parser = _Parser(prog="decant", description="OpenVINO models, poured on demand.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print versions and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (text, add_arguments) in _COMMANDS.items():
        command = commands.add_parser(name, help=text)
        if name == asked:
            add_arguments(command)
    return parser


def _add_serve(command: argparse.ArgumentParser) -> None:
    add_options(command)
    command.set_defaults(run=_serve)


def _add_nothing(command: argparse.ArgumentParser) -> None:
    """Of a command that has never come here, as `handlers.cli` knows it."""


def _add_predict(command: argparse.ArgumentParser) -> None:
    from handlers.remote import PROTOCOLS, TRANSPORTS

    command.add_argument(
        "model",
        help="directory or URL of the model's versions, or of a server's model: http://HOST:PORT/v1/models/NAME, "
        "http://HOST:PORT/v2/models/NAME or grpc://HOST:PORT/NAME; https and grpcs for TLS",
    )
    command.add_argument("request", help="file with the JSON that a client would POST; - for standard input")
    command.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        help="TensorFlow Serving's, or the Open Inference Protocol (KServe v2); default: the URL's, or else tfs",
    )
    command.add_argument(
        "--transport", choices=TRANSPORTS, help="as the URL's scheme says; over gRPC JSON is made a message, and back"
    )
    _add_one_shot_options(command)
    command.set_defaults(run=_predict)


def _add_inspect(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", help="directory or URL of the model's versions")
    _add_one_shot_options(command)
    command.set_defaults(run=_inspect)


def _add_pull(command: argparse.ArgumentParser) -> None:
    command.add_argument("models", nargs="*", metavar="model", help="directory or URL of the model's versions")
    _add_version_option(command)
    command.add_argument(
        *("--output", "-o"),
        metavar="DIR",
        help="directory to lay models out in, as DIR/NAME/VERSION/..., to be served from there with no store: NAME is "
        "model_name, the file's or the last part of the path, and with a policy all versions that it offers are laid "
        "out; default: the cache",
    )
    add_options(command, only=_PULL_ALL_OPTIONS)
    command.set_defaults(run=_pull)


def _add_compile(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", help="directory or URL of the model's versions")
    _add_version_option(command)
    command.add_argument("--output", default="", help="directory to write to; default: compiled/ beside the model")
    command.add_argument("--force", action="store_true", help="publish it even if importing is no quicker")
    add_options(command, only=_COMPILE_OPTIONS)
    command.set_defaults(run=_compile)


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


def _add_deploy_commands(parser: argparse.ArgumentParser) -> None:
    from handlers.deploy.targets import TARGETS

    commands = parser.add_subparsers(dest="deploy_command", required=True, metavar="COMMAND")
    command = commands.add_parser("render", help="write files for platforms, rights and policies included")
    command.add_argument("manifest", help="file with the description, YAML or JSON; - for standard input")
    command.add_argument(
        "--target",
        action="append",
        required=True,
        choices=("all", *TARGETS),
        metavar="TARGET",
        help=f"a platform, or all; may be given more than once: {', '.join(TARGETS)}",
    )
    command.add_argument(
        *("--output", "-o"),
        default="deploy",
        help="directory to write to, where each target has one of its own; - for standard output, where a single file "
        "is as it is, and several are a tar archive; default: deploy",
    )
    command.add_argument("--force", action="store_true", help="replace files that are somebody's, or were edited")
    command.add_argument(*("--dry_run", "--dry-run"), action="store_true", help="say what would be written, and stop")
    command.set_defaults(run=_deploy_render)
    command = commands.add_parser("targets", help="list the platforms")
    command.set_defaults(run=_deploy_targets)
    command = commands.add_parser("example", help="print a description to begin with")
    command.set_defaults(run=_deploy_example)


def _add_doctor(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print one object, for machines")
    command.add_argument("--timeout", type=SECONDS.parse, default=60.0, help="seconds that all checks have; default 60")
    command.add_argument("--publish", action="store_true", help="try to write beside models, as decant compile does")
    add_options(command)
    command.set_defaults(run=_doctor)


_COMMANDS: Mapping[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "serve": ("serve a model over REST and gRPC; also what flags alone mean", _add_serve),
    "ovms": ("serve as OpenVINO Model Server's command does, with its defaults", _add_nothing),
    "ie_serving": ("the same for its ancestor in Python", _add_nothing),
    "predict": ("predict once, with a model or with a server that has it", _add_predict),
    "inspect": ("show a model's versions, sizes and signatures", _add_inspect),
    "pull": ("fetch models into the cache ahead: for an image, or an init container", _add_pull),
    "compile": ("compile a model ahead, for servers to import, and publish that beside it", _add_compile),
    "cache": ("show, check or remove what is in the cache directory", _add_cache_commands),
    "doctor": ("say what is wrong in the place where it runs, for settings as serve has them", _add_doctor),
    "deploy": ("write a platform's files from one short description of what to serve", _add_deploy_commands),
}


def _add_one_shot_options(parser: argparse.ArgumentParser) -> None:
    _add_version_option(parser)
    add_options(parser, only=_ONE_SHOT_OPTIONS)


def _add_version_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", type=int, help="number of the version; default: the newest")


def _say(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError as exc:
        raise _Unheard(exc.errno, exc.strerror) from exc


def _say_bytes(content: bytes) -> None:
    try:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except OSError as exc:
        raise _Unheard(exc.errno, exc.strerror) from exc


def _serve(options: argparse.Namespace) -> int:
    return serve_with(vars(options))


def _predict(options: argparse.Namespace) -> int:
    from handlers.remote import Protocol, ask, is_of_v2, remote_of

    protocol: Protocol
    remote = remote_of(options.model, options.protocol, options.transport)
    if remote is None:
        from handlers.one_shot import predict

        protocol = options.protocol or "tfs"
        answer_to = partial(predict, _one_shot_settings(options), options.version, protocol=protocol)
    else:
        for name in _ONE_SHOT_OPTIONS:
            if name != "log_level" and getattr(options, name) is not None:
                raise SettingsError(f"{name} is given, and the model is a server's, which has its own")
        protocol = remote.protocol
        answer_to = partial(ask, remote, options.version)
    request = _read(options.request)
    try:
        answer = answer_to(request)
    except InferenceError as exc:
        if protocol == "tfs" and is_of_v2(request):
            hint = "the request is one of v2; want --protocol v2, or the URL of /v2/models/NAME"
            raise InferenceError(f"{exc}; {hint}") from exc
        raise
    # Of whom we ask nobody says that he answers text.
    _say(_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", answer.decode(errors="replace")))
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from handlers.one_shot import describe

    for line in describe(_one_shot_settings(options), options.version):
        _say(line)
    return 0


def _pull(options: argparse.Namespace) -> int:
    from handlers.stock import pull, pull_to

    if len(options.models) > 1 and options.model_name is not None:
        raise SettingsError("model_name is given with several models; want one, or a file of models")
    chosen = [
        _settings_of(model, options, _PULL_ONE_OPTIONS, name=options.model_name or "") for model in options.models
    ]
    if options.model_config_file or options.model_config or not chosen:
        chosen.append(_settings(options, _PULL_ALL_OPTIONS))
    lines: Iterator[str]
    if options.output is None:
        lines = chain.from_iterable(pull(settings, options.version) for settings in chosen)
    else:
        for name in _OF_THE_CACHE:
            if getattr(options, name) is not None:
                raise SettingsError(f"{name} is given with output, which needs no cache; want one of them")
        if not options.output:
            raise SettingsError("output is empty; want a directory")
        lines = pull_to(Path(options.output), chosen, options.version)
    for line in lines:
        _say(line)
    return 0


def _compile(options: argparse.Namespace) -> int:
    from handlers.compile import compile_ahead

    done = True
    for is_good, line in compile_ahead(
        _settings_of(options.model, options, _COMPILE_OPTIONS),
        options.version,
        output=options.output,
        is_forced=options.force,
    ):
        _say(line)
        done = done and is_good
    return 0 if done else FAILED


def _cache_ls(options: argparse.Namespace) -> int:
    from handlers.stock import show

    for line in show(_settings(options, _CACHE_OPTIONS)):
        _say(line)
    return 0


def _cache_rm(options: argparse.Namespace) -> int:
    from handlers.stock import remove

    done = True
    for is_gone, line in remove(_settings(options, ("cache_dir",)), options.digests, all_of_them=options.all):
        _say(line)
        done = done and is_gone
    return 0 if done else FAILED


def _cache_verify(options: argparse.Namespace) -> int:
    from handlers.stock import verify

    done = True
    for is_whole, line in verify(_settings(options, ("cache_dir",)), options.digests):
        _say(line)
        done = done and is_whole
    return 0 if done else FAILED


def _deploy_render(options: argparse.Namespace) -> int:
    from handlers.deploy.parse import ManifestError
    from handlers.deploy.render import OutputError, read, render, to_stdout, write
    from handlers.deploy.targets import TARGETS

    asks_for_all = "all" in options.target
    try:
        manifest = read(options.manifest)
        rendered, refused = render(manifest, tuple(TARGETS) if asks_for_all else options.target)
        for target, reason in refused.items():
            print(f"decant: {target}: not rendered: {reason}", file=sys.stderr)
        if refused and not (asks_for_all and rendered):
            return USAGE
        if options.output != "-":
            for line in write(rendered, Path(options.output), is_forced=options.force, is_dry=options.dry_run):
                _say(line)
        elif options.dry_run:
            for one in rendered:
                _say("\n".join(f"{one.target}/{name}" for name in one.files))
        else:
            _say_bytes(to_stdout(rendered))
    except ManifestError as exc:
        print(f"decant: {exc}", file=sys.stderr)
        return USAGE
    except OutputError as exc:
        print(f"decant: {exc}", file=sys.stderr)
        return FAILED
    return 0


def _deploy_targets(options: argparse.Namespace) -> int:
    from handlers.deploy.targets import TARGETS

    for target, text in TARGETS.items():
        _say(f"{target:15} {text}")
    return 0


def _deploy_example(options: argparse.Namespace) -> int:
    from handlers.deploy.templates import text

    _say(text("models.yaml").rstrip("\n"))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from handlers.doctor.report import read, report_on

    # What others log is said in findings.
    logging.getLogger().addHandler(logging.NullHandler())
    flags = {name: given for name, given in vars(options).items() if name in Settings.__dataclass_fields__}
    settings, findings = read(flags)
    report = report_on(settings, timeout=options.timeout, writes=options.publish, before=findings)
    for line in [report.json()] if options.json else report.lines():
        _say(line)
    if not report.is_complete:
        # Not by returning: Python would wait for threads that wait for what never answers.
        sys.stdout.flush()
        os._exit(report.exit_code)
    return report.exit_code


def _one_shot_settings(options: argparse.Namespace) -> Settings:
    return _settings_of(options.model, options, _ONE_SHOT_OPTIONS)


def _settings_of(model: str, options: argparse.Namespace, names: Sequence[str], *, name: str = "") -> Settings:
    # A query may be signed, and names are shown.
    path = model.partition("?")[0] if "://" in model else model
    name = name or path.rstrip("/").rpartition("/")[2] or "model"
    return _settings(options, names, model_name=name, model_path=model, **dict.fromkeys(_OF_SEVERAL, ""))


def _settings(options: argparse.Namespace, names: Sequence[str], **others: str) -> Settings:
    # Progress is for servers' logs; here the answer is what is wanted, unless somebody asks for more. And whoever waits
    # for it at a terminal says when it takes too long.
    given = {name: getattr(options, name) for name in names}
    # Nor is anything to be gained by an inference before the one inference there is.
    defaults = {"enable_model_warmup": False, "enable_signature_warmup": False}
    settings = read_settings({**given, **others}, {"log_level": "WARNING", "load_timeout": _PATIENCE, **defaults})
    configure_logging(settings)
    return settings


def _read(request: str) -> bytes:
    if request == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(request).read_bytes()
    except OSError as exc:
        raise SettingsError(f"cannot read the request {request}: {exc.strerror}") from exc
