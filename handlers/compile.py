"""Compiling a model ahead, for servers to import: measured first, and published beside the model if that is quicker."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
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
from runtime.compiled import OWN_PROPERTIES, CompiledFiles, CompiledModel, Unfit
from runtime.compiler import Recipe, Unsuited, compile_to_export, exported, recipe_of
from runtime.engine import names_of
from runtime.formats import model_file
from runtime.openvino_core import openvino, reason
from runtime.options import options_of

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
        SettingsError: the model's path or the output is none, or nothing is exported with such settings.
        ModelCacheError: the model cannot be had or compiled, or what was compiled cannot be written.
    """
    (model,) = models_of(settings).models
    if "://" in output:
        raise SettingsError(f"--output is {output!r}; want a directory")
    if own := {*(settings.plugin_config or {}), *dict(model.options.properties)} & OWN_PROPERTIES:
        raise SettingsError(f"plugin_config has {', '.join(sorted(own))}, with which nothing is compiled ahead")
    if settings.cpu_extension:
        # Who has an extension compiles all: what is exported does not say of which operations it was made.
        raise SettingsError("cpu_extension is given, with which nothing is compiled ahead")
    found = find(open_repository(model, settings), version)
    given = properties(settings, cpu_room())
    with open_disk_cache(settings, given).lease(found) as files:
        path = model_file(found, files.directory)
        recipe = recipe_of(options_of(found.options), names_of(found, files.directory), given)
        compiled = _measured(_compiled(found, files, path, recipe), path, recipe)
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


def _compiled(found: ModelVersion, files: Files, path: Path, recipe: Recipe) -> CompiledModel:
    if not recipe.can_be_exported(path):
        want = "an .xml with its .bin" if recipe.is_for_others else "it for the CPU, and allow_cache with auto"
        raise LoadFailed(f"{found} cannot be compiled ahead: want {want}, have {path.name}")
    try:
        known = CompiledFiles(found, files, path, recipe.identity, openvino().get_version())
        # Before it is compiled: later, somebody may have put others in their place.
        origin = known.origin()
        return exported(known, compile_to_export(path, recipe), 0.0, origin)
    except (RuntimeError, Unfit, Unsuited) as exc:
        raise LoadFailed(f"cannot compile {found} from {path.name}: {reason(exc, files.directory)}") from exc
    except OSError as exc:
        raise LoadFailed(f"the files of {found} have gone or cannot be read: {exc.strerror}") from exc


def _measured(compiled: CompiledModel, path: Path, recipe: Recipe) -> CompiledModel:
    """Return the same with the least that either way has taken."""
    with tempfile.TemporaryDirectory(prefix="decant-compile-") as directory:
        file = Path(directory, compiled.header.name)
        file.write_bytes(compiled.to_bytes())
        # In turns, so that neither has the quieter machine.
        pairs = [(_seconds(path, recipe, None), _seconds(path, recipe, file)) for _ in range(RUNS)]
    compiling, importing = (min(times) for times in zip(*pairs, strict=True))
    return compiled.with_seconds(compiling, importing)


def _seconds(path: Path, recipe: Recipe, file: Path | None) -> float:
    # -P, or modules of the directory that we are in would come before ours.
    argv = [sys.executable, "-P", "-m", "runtime.stopwatch"]
    try:
        task = pickle.dumps((path, recipe, file))
        done = subprocess.run(argv, input=task, capture_output=True, timeout=_TIMEOUT, check=True)
    except subprocess.TimeoutExpired as exc:
        raise LoadFailed(f"{path.name} has not been loaded after {_TIMEOUT:.0f} s") from exc
    except subprocess.CalledProcessError as exc:
        last = exc.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {exc.returncode}"]
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
