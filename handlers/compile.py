"""Compiling a model ahead, for servers to import: measured first, and published beside the model if that is quicker."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from handlers.build import open_disk_cache, open_repository
from handlers.configuration import models_of
from handlers.limits import cpu_room
from handlers.properties import properties
from handlers.settings import Settings, SettingsError
from handlers.stock import find
from model_cache.compiled import DIRECTORY
from model_cache.disk import Files
from model_cache.errors import LoadFailed, StorageUnavailable
from model_cache.local import LocalStorage
from model_cache.repository import ModelVersion
from runtime.compiled import (
    OWN_PROPERTIES,
    CompiledFiles,
    CompiledModel,
    Unfit,
    can_be_exported,
    properties_of,
    with_defaults,
)
from runtime.compiler import compile_to_export, exported
from runtime.engine import model_file
from runtime.openvino_core import openvino, reason

RUNS = 3
"""Processes that each way is measured in; the least of them counts."""
_TIMEOUT = 600.0


def compile_ahead(
    settings: Settings, version: int | None, *, output: str, is_forced: bool
) -> Iterator[tuple[bool, str]]:
    """Compile one version, or the newest; yield lines to show, each with whether all is well so far.

    Args:
        output: directory to write to, or empty to publish beside the model.
        is_forced: whether to publish what is no quicker to import.

    Raises:
        SettingsError: the model's path or the output is none, or nothing is exported with such properties.
        ModelCacheError: the model cannot be had or compiled, or what was compiled cannot be written.
    """
    (model,) = models_of(settings)
    if "://" in output:
        raise SettingsError(f"--output is {output!r}; want a directory")
    if own := (settings.plugin_config or {}).keys() & OWN_PROPERTIES:
        raise SettingsError(f"plugin_config has {', '.join(sorted(own))}, with which nothing is compiled ahead")
    found = find(open_repository(model, settings), version)
    given = properties(settings, cpu_room())
    config = with_defaults(given)
    with open_disk_cache(settings, given).lease(found) as files:
        path = model_file(found, files.directory)
        compiled = _measured(_compiled(found, files, path, config), path, config)
    yield from publish(found, compiled, output, is_forced=is_forced)


def publish(
    found: ModelVersion, compiled: CompiledModel, output: str, *, is_forced: bool
) -> Iterator[tuple[bool, str]]:
    """Publish what was measured, if it is worth it; yields and raises as `compile_ahead`."""
    seconds, imported = compiled.header.compile_seconds, compiled.header.import_seconds or 0.0
    yield True, f"{found}: compiling takes {seconds:.3f} s and importing {imported:.3f} s, the least of {RUNS} each"
    if imported >= seconds and not is_forced:
        yield False, f"{found}: not published, as importing is no quicker; --force publishes it all the same"
        return
    yield True, f"{found}: {_put(found, compiled, output)}"


def _compiled(found: ModelVersion, files: Files, path: Path, config: Mapping[str, str]) -> CompiledModel:
    if not can_be_exported(path, config):
        raise LoadFailed(f"{found} cannot be compiled ahead: want an .xml with its .bin, have {path.name}")
    try:
        known = CompiledFiles(found, files, path, properties_of(config), openvino().get_version())
        # Before it is compiled: later, somebody may have put others in their place.
        origin = known.origin()
        return exported(known, compile_to_export(path, config), 0.0, origin)
    except (RuntimeError, Unfit) as exc:
        raise LoadFailed(f"cannot compile {found} from {path.name}: {reason(exc, files.directory)}") from exc
    except OSError as exc:
        raise LoadFailed(f"the files of {found} have gone or cannot be read: {exc.strerror}") from exc


def _measured(compiled: CompiledModel, path: Path, config: Mapping[str, str]) -> CompiledModel:
    """Return the same with the least that either way has taken."""
    with tempfile.TemporaryDirectory(prefix="decant-compile-") as directory:
        file = Path(directory, compiled.header.name)
        file.write_bytes(compiled.to_bytes())
        # In turns, so that neither has the quieter machine.
        pairs = [(_seconds(path, config, None), _seconds(path, config, file)) for _ in range(RUNS)]
    compiling, importing = (min(times) for times in zip(*pairs, strict=True))
    return compiled.with_seconds(compiling, importing)


def _seconds(path: Path, config: Mapping[str, str], file: Path | None) -> float:
    argv = [
        sys.executable,
        # Or modules of the directory that we are in would come before ours.
        "-P",
        "-m",
        "runtime.stopwatch",
        str(path),
        json.dumps(dict(config)),
        *([str(file)] if file else []),
    ]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_TIMEOUT, check=True)
    except subprocess.TimeoutExpired as exc:
        raise LoadFailed(f"{path.name} has not been loaded after {_TIMEOUT:.0f} s") from exc
    except subprocess.CalledProcessError as exc:
        last = exc.stderr.strip().splitlines()[-1:] or [f"exit code {exc.returncode}"]
        raise LoadFailed(f"{path.name} cannot be loaded in a process of its own: {last[0][:500]}") from exc
    except OSError as exc:
        raise LoadFailed(f"no process can be started to load {path.name} in: {exc.strerror}") from exc
    return float(done.stdout)


def _put(found: ModelVersion, compiled: CompiledModel, output: str) -> str:
    name, data = compiled.header.name, compiled.to_bytes()
    if output:
        LocalStorage(Path(output)).put(name, data)
        return f"{len(data)} bytes written to {Path(output, name)}"
    key = f"{found.prefix}{DIRECTORY}/{name}"
    try:
        found.storage.put(key, data)
    except StorageUnavailable as exc:
        raise StorageUnavailable(f"{exc}; --output DIRECTORY writes it elsewhere") from exc
    return f"{len(data)} bytes published at {found.storage}/{key}"
