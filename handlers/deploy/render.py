"""From a manifest's file to a platform's files: ``DIR/TARGET/…``, and a record beside them of what was written.

A file that is there and is not as the record has it belongs to somebody, and is left alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import secrets
import shlex
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from handlers.deploy.manifest import Manifest
from handlers.deploy.parse import MAX_TEXT, ManifestError, parse
from handlers.deploy.targets import NEXT, renderer
from runtime.errors import shown

RECORD = ".rendered"
"""In each target's directory: JSON with the SHA-256 of each file that was written there, by name, or the two that it
may have if the writing was ended midway. It is not called .json, as kubectl would apply that."""
_MAX_RECORD = 1 << 20


class OutputError(Exception):
    """Why the files are not written: what is there, or what the system says."""


class Rendered(NamedTuple):
    target: str
    files: Mapping[str, str]
    name: str
    """The service's."""

    def next_command(self, directory: Path) -> str:
        return NEXT[self.target].format(directory=shlex.quote(str(directory)), name=self.name)


class Plan(NamedTuple):
    """What is to be done in one target's directory."""

    directory: Path
    written: Mapping[str, bytes]
    unchanged: Sequence[str]
    removed: Sequence[str]
    """Of an earlier rendering, as it was written, and not of this one."""
    orphaned: Sequence[str]
    """The same, but edited since."""
    taken: Sequence[str]
    """Somebody else's, or edited: in the way."""
    record: Mapping[str, str]
    pending: Mapping[str, str]
    """The record while files are written: what is there may be as it was, or new."""


def read(path: str) -> Manifest:
    """Return the manifest in a file, or on standard input if the path is ``-``.

    Raises:
        ManifestError: it cannot be read, or is none; with the file's name.
    """
    name = "standard input" if path == "-" else path
    try:
        content = _content(path)
        return parse(content.decode("utf-8-sig"))
    except OSError as exc:
        raise ManifestError(f"cannot read {name}: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise ManifestError(f"{name}: has bytes that are no UTF-8 at {exc.start}; want text") from exc
    except ManifestError as exc:
        raise ManifestError(f"{name}: {exc}") from exc


def _content(path: str) -> bytes:
    # A character has four bytes at most, and one byte more is too many.
    limit = 4 * MAX_TEXT + 1
    if path == "-":
        return sys.stdin.buffer.read(limit)
    with Path(path).open("rb") as file:
        return file.read(limit)


def render(manifest: Manifest, targets: Sequence[str]) -> tuple[list[Rendered], dict[str, str]]:
    """Return each target's files, and why there are none, by target, for what its platform cannot."""
    rendered: list[Rendered] = []
    refused: dict[str, str] = {}
    for target in dict.fromkeys(targets):
        try:
            files = renderer(target)(manifest)
        except ManifestError as exc:
            refused[target] = str(exc)
            continue
        for name in files:
            check_name(name)
        rendered.append(Rendered(target, files, manifest.name))
    return rendered, refused


def check_name(name: str) -> None:
    """Refuse a file's name, in which there may be a model's, if it leads out of the directory or is no name.

    Raises:
        ManifestError: it does, or is none.
    """
    parts = PurePosixPath(name).parts
    is_plain = name == "/".join(parts) and name.isprintable() and "\\" not in name
    if not parts or not is_plain or {"..", "/", RECORD} & set(parts):
        raise ManifestError(f"{shown(name)} would be a file's name, and can be none; want other names of models")


def write(
    rendered: Sequence[Rendered], output: Path, *, is_forced: bool = False, is_dry: bool = False
) -> Iterator[str]:
    """Write the files, all or, if one is in the way, none; yield a line for each, and the command to type next.

    Args:
        output: a directory, made if missing; each target has its own in it.
        is_forced: whether what is in the way is replaced.
        is_dry: whether nothing is done but to say what would be.

    Raises:
        OutputError: files are in the way, or cannot be written.
    """
    try:
        plans = [_plan(one, output) for one in rendered]
        taken = [str(plan.directory / name) for plan in plans for name in plan.taken]
        if taken and not is_forced and not is_dry:
            raise OutputError(
                f"not written by this command, or edited since: {', '.join(taken)}; "
                "nothing is written; want another --output, or --force to replace them"
            )
        for one, plan in zip(rendered, plans, strict=True):
            yield from _say(plan, is_forced) if is_dry else _carry_out(plan)
            if not is_dry:
                yield f"next: {one.next_command(plan.directory)}"
    except OSError as exc:
        raise OutputError(f"cannot write {exc.filename or output}: {exc.strerror or exc}") from exc


def to_stdout(rendered: Sequence[Rendered]) -> bytes:
    """Return a single file as it is, and several as a tar archive of what `write` would write."""
    files = [(f"{one.target}/{name}", text.encode()) for one in rendered for name, text in one.files.items()]
    if len(files) == 1:
        return files[0][1]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755 if _is_program(content) else 0o644
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def _plan(one: Rendered, output: Path) -> Plan:
    directory = output / one.target
    before = _recorded(directory)
    new = {name: text.encode() for name, text in one.files.items()}
    record = {name: _digest(content) for name, content in new.items()}
    pending = before | record
    written, unchanged, taken = {}, [], []
    for name, content in new.items():
        _check_inside(directory, name)
        path = directory / name
        there = _digest_of(path)
        if there == _digest(content) and (path.stat().st_mode & 0o100 or not _is_program(content)):
            unchanged.append(name)
            continue
        written[name] = content
        is_ours = there in (_digest(content), *before.get(name, "").split())
        if os.path.lexists(path) and not is_ours:
            taken.append(name)
        elif there:
            pending[name] = f"{there} {_digest(content)}"
    gone = [name for name in before if name not in new and os.path.lexists(directory / name)]
    removed = [name for name in gone if _digest_of(directory / name) in before[name].split()]
    orphaned = [name for name in gone if name not in removed]
    return Plan(directory, written, unchanged, removed, orphaned, taken, record, pending)


def _say(plan: Plan, is_forced: bool) -> Iterator[str]:
    for name in plan.written:
        is_in_the_way = name in plan.taken and not is_forced
        yield f"{'in the way, want --force:' if is_in_the_way else 'would write'} {plan.directory / name}"
    yield from (f"unchanged {plan.directory / name}" for name in plan.unchanged)
    yield from (f"would remove {plan.directory / name}" for name in plan.removed)
    yield from (f"left, as it was edited: {plan.directory / name}" for name in plan.orphaned)


def _carry_out(plan: Plan) -> Iterator[str]:
    if plan.written:
        plan.directory.mkdir(parents=True, exist_ok=True)
        _write_record(plan, plan.pending)
    for name, content in plan.written.items():
        path = plan.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, content)
        yield f"wrote {path}"
    yield from (f"unchanged {plan.directory / name}" for name in plan.unchanged)
    for name in plan.removed:
        (plan.directory / name).unlink()
        yield f"removed {plan.directory / name}"
    yield from (f"left, as it was edited: {plan.directory / name}" for name in plan.orphaned)
    _write_record(plan, plan.record)


def _write_record(plan: Plan, record: Mapping[str, str]) -> None:
    _replace(plan.directory / RECORD, f"{json.dumps(record, indent=2, sort_keys=True)}\n".encode())


def _replace(path: Path, content: bytes) -> None:
    """Write a file that is there as a whole or not at all; a link of its name is replaced, not followed."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    mode = 0o777 if _is_program(content) else 0o666
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
        part.replace(path)
    except OSError as exc:
        with contextlib.suppress(OSError):
            part.unlink()
        raise OSError(exc.errno, exc.strerror, str(path)) from exc


def _is_program(content: bytes) -> bool:
    return content.startswith(b"#!")


def _check_inside(directory: Path, name: str) -> None:
    # A directory below may be a link to somewhere else.
    if not (directory / name).parent.resolve().is_relative_to(directory.resolve()):
        raise OutputError(f"{directory / name} is outside of {directory}, by a link; want a directory without")


def _recorded(directory: Path) -> dict[str, str]:
    """Return what was written before; nothing if there is no record, or none that can be believed."""
    try:
        with (directory / RECORD).open("rb") as file:
            record = json.loads(file.read(_MAX_RECORD))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return {}
    if not isinstance(record, dict):
        return {}
    return {
        name: digest for name, digest in record.items() if isinstance(digest, str) and _is_name_inside(directory, name)
    }


def _is_name_inside(directory: Path, name: str) -> bool:
    try:
        check_name(name)
        _check_inside(directory, name)
    except (ManifestError, OutputError):
        return False
    return True


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest_of(path: Path) -> str:
    """Return a regular file's digest, or nothing if there is none."""
    if path.is_symlink() or not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
