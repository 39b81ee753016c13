"""What the command line does with the disk cache: fill it ahead, show, check or remove what is in it, or do without."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from handlers.build import open_disk_cache, open_repository
from handlers.configuration import ModelConfig, models_of
from handlers.progress import watch
from handlers.settings import Settings, SettingsError
from model_cache.disk import Entry
from model_cache.errors import ModelNotFound
from model_cache.layout import lay_out, refuse_other
from model_cache.policy import Specific
from model_cache.repository import ModelRepository, ModelVersion

SHOWN = 12
"""Digits of a digest that are shown, and are enough to name it."""
_MAX_NAME = 255
"""Bytes of a directory's name."""


def pull(settings: Settings, version: int | None) -> Iterator[str]:
    """Fetch one version of each model, or the newest and those with labels, into the cache; yield a line for each.

    Raises:
        SettingsError: the models are not what they should be.
        ModelCacheError: one cannot be had or kept.
    """
    for model in models_of(settings).models:
        repository = open_repository(model, settings)
        labelled = [] if version is not None else map(repository.find, model.labels.values())
        # The newest may have a label, or several.
        for found in dict.fromkeys((find(repository, version), *labelled)):
            yield _pull(settings, found)


def pull_to(directory: Path, chosen: Sequence[Settings], version: int | None) -> Iterator[str]:
    """Lay versions out as ``directory/NAME/VERSION``, to be served from there; yield a line for each.

    Those are one of each model, or all that its policy offers, or without one the newest and those with labels. Before
    the first is fetched all are found, and what is there is looked at.

    Raises:
        SettingsError: the models are not what they should be, or their names are no directories'.
        ModelCacheError: one cannot be had or written, or something else is there.
    """
    wanted: dict[Path, tuple[ModelVersion, str]] = {}
    names: set[str] = set()
    for settings in chosen:
        configuration = models_of(settings)
        for name, reason in configuration.rejected.items():
            raise SettingsError(f"{name}: {reason}; want models that can be served")
        for model in configuration.models:
            if model.name in names:
                raise SettingsError(f"{model.name!r} is the name of two models; want a name for each, as a file gives")
            names.add(model.name)
            home = directory / _directory_name(model.name)
            for found in _offered(model, open_repository(model, settings), version):
                wanted[home / str(found.id.version)] = (found, settings.ready_marker)
    for target, (found, marker) in wanted.items():
        refuse_other(found, target, marker)
    for target, (found, marker) in wanted.items():
        fetched = lay_out(found, target, watch, marker)
        how = "there already" if fetched is None else f"fetched in {fetched.seconds:.2f} s"
        yield f"{found}: {found.size} bytes in {target}, {how}"


def _directory_name(name: str) -> str:
    if name.startswith(".") or "/" in name or len(name.encode(errors="replace")) > _MAX_NAME:
        raise SettingsError(f"{name[:100]!r} is no name for a directory; give the model one with --model_name")
    return name


def _offered(model: ModelConfig, repository: ModelRepository, version: int | None) -> Collection[ModelVersion]:
    if version is not None:
        return [find(repository, version)]
    found = [find(repository, None), *map(repository.find, model.labels.values())]
    # Who names versions wants them all, and not those that happen to be there.
    if isinstance(model.policy, Specific):
        found += map(repository.find, sorted(model.policy.versions))
    elif model.policy is not None:
        found += repository.versions().values()
    return dict.fromkeys(found)


def find(repository: ModelRepository, version: int | None) -> ModelVersion:
    """Return a version, or the newest.

    Raises:
        ModelCacheError: as `ModelRepository.find`.
    """
    found = repository.find(version) if version is not None else next(iter(repository.candidates()), None)
    if found is None:
        raise ModelNotFound(f"no directory named by a number in {repository}")
    return found


def _pull(settings: Settings, found: ModelVersion) -> str:
    # Waits until it is on the disk itself: images and volumes are made of what is there.
    with open_disk_cache(settings, is_durable=True).lease(found) as files:
        what = f"{found}: {found.size} bytes"
        if found.storage.in_place:
            return f"{what} in {files.directory}, read in place"
        if files.fetched is None:
            return f"{what} in {files.directory}, there already"
        return f"{what} in {files.directory}, fetched in {files.fetched.seconds:.2f} s"


def show(settings: Settings) -> Iterator[str]:
    """Yield a line about each version in the cache, and one about all."""
    cache = open_disk_cache(settings)
    for entry in cache.entries():
        used = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry.last_used))
        state = "complete" if entry.is_complete else "partial"
        yield f"{entry.digest[:SHOWN]}  {state:8}  {entry.size:>13}  {used}  {_title(entry)}"
    usage = cache.usage()
    yield f"{usage.used} bytes are used of {usage.budget}; {usage.free} are free on the disk"


def remove(settings: Settings, digests: Collection[str], *, all_of_them: bool = False) -> Iterator[tuple[bool, str]]:
    """Remove versions that nobody uses, and yield for each whether it is gone and a line about it.

    Raises:
        SettingsError: a digest names none of them, or more than one.
    """
    cache = open_disk_cache(settings)
    for entry in _chosen(cache.entries(), digests, all_of_them):
        is_gone = cache.remove(entry)
        yield is_gone, f"{entry.digest[:SHOWN]}  {_title(entry)}  {'removed' if is_gone else 'left, as it is in use'}"


def verify(settings: Settings, digests: Collection[str]) -> Iterator[tuple[bool, str]]:
    """Read complete versions, all or those named, and yield for each whether it is whole and a line about it.

    Raises:
        SettingsError: a digest names none of them, or more than one.
    """
    cache = open_disk_cache(settings)
    for entry in _chosen([entry for entry in cache.entries() if entry.is_complete], digests, not digests):
        damaged = cache.damaged(entry)
        found = f"damaged: {', '.join(damaged[:10])}" if damaged else "ok"
        yield not damaged, f"{entry.digest[:SHOWN]}  {_title(entry)}  {found}"


def _chosen(entries: list[Entry], digests: Collection[str], all_of_them: bool) -> list[Entry]:
    if all_of_them:
        return entries
    return [_named(entries, digest) for digest in digests]


def _named(entries: list[Entry], digest: str) -> Entry:
    found = [entry for entry in entries if entry.digest.startswith(digest)]
    if len(found) != 1:
        raise SettingsError(f"{digest!r} is the beginning of {len(found)} digests in the cache; want one")
    return found[0]


def _title(entry: Entry) -> str:
    manifest = entry.manifest
    return f"{manifest.model}/{manifest.version} from {manifest.source}" if manifest else "(no manifest yet)"
