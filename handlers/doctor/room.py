"""Memory and disk: how much there is, against the budgets and against the models as listed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from handlers.build import is_disk_memory, memory_budget, open_disk_cache
from handlers.doctor.directories import is_read_only
from handlers.doctor.finding import Finding, Findings, Site, ok, problem, size, warning
from handlers.doctor.processors import workers_of
from handlers.doctor.stores import Stored
from handlers.limits import MEMORY_SHARE, cpu_room, memory_limit, memory_room
from runtime.memory import upper_bound

_PROCESS = 200 << 20
"""Bytes that a process with gRPC, an engine and no model takes."""
# Below any size that somebody gives a volume, so that a few bytes of others there do not decide.
_LITTLE = 15 << 20
_SLACK = 1 << 20
_MUCH = 0.95


def check_memory(site: Site) -> Findings:
    room, limit = memory_room(site.root), memory_limit(site.root)
    where = "no limit is found, the machine has" if limit is None else "the container may use"
    detail = f"{where} {size(room)}, and {size(memory_budget(site.settings))} are for models"
    needed = _PROCESS * workers_of(site, cpu_room(site.root))
    if room < needed:
        detail += f"; want {size(needed)} for Decant alone"
        yield problem("memory.limit", "memory", detail, "raise the memory of the container or function")
    else:
        yield ok("memory.limit", "memory", detail)
    if site.settings.memory_budget > room * _MUCH:
        detail = f"memory_budget is {size(site.settings.memory_budget)} of {size(room)}; want 70 percent at most"
        advice = "leave it out, or raise the limit: the kernel ends the process before the budget is reached"
        yield problem("memory.budget", "memory budget", detail, advice)


def check_disk(site: Site) -> Findings:
    directory = Path(site.settings.cache_dir).absolute()
    usage = open_disk_cache(site.settings).usage()
    kind = "memory" if is_disk_memory(site.settings) else "disk"
    title = f"room in {directory}"
    detail = (
        f"{size(usage.free)} of {kind} are free, {size(usage.used)} are used, and the budget is {size(usage.budget)}"
    )
    if kind == "memory":
        detail += f" of the {size(memory_room(site.root))} of memory, which models need, too"
    if usage.free + usage.used < _LITTLE:
        yield warning("disk.room", title, f"{detail}; want {size(_LITTLE)} at least", "make it larger")
    elif site.settings.disk_budget > usage.free + usage.used + _SLACK:
        advice = "lower disk_budget, or make the volume larger: it is full before models are removed"
        yield warning("disk.room", title, f"{detail}; want a budget that is there", advice)
    else:
        yield ok("disk.room", title, detail)
    found = os.statvfs(_existing(directory))
    if found.f_files and found.f_favail < 1000:
        detail = f"{found.f_favail} more files can be made; want 1000"
        yield warning("disk.files", title, detail, "make the volume anew with more inodes")


def check_fit(site: Site, stored: Sequence[Stored]) -> Findings:
    """Compare the models that were found with the room there is."""
    processes = workers_of(site, cpu_room(site.root))
    budget = memory_budget(site.settings) // processes
    yield from _in_memory(stored, budget, processes)
    cache = open_disk_cache(site.settings)
    fetched = [one for one in stored if not one.in_place]
    kept = {entry.digest for entry in cache.entries() if entry.is_complete}
    missing = [one for one in fetched if one.newest.digest not in kept]
    if missing and is_read_only(site):
        for one in missing:
            detail = f"{one.newest} is not there, and the cache directory cannot be written; want one of both"
            yield problem(
                "disk.model", "models on disk", detail, "decant pull it into the image, or set DECANT_CACHE_DIR"
            )
    elif missing:
        usage = cache.usage()
        yield from _on_disk(site, fetched, min(usage.budget, usage.free + usage.used))
    elif fetched:
        yield ok("disk.models", "models on disk", "the newest versions are there")


def _in_memory(stored: Sequence[Stored], budget: int, processes: int) -> Findings:
    each = " of each worker" if processes > 1 else ""
    title = f"models in memory{each}"
    for one in stored:
        needed = upper_bound(one.newest.size)
        if needed > budget:
            detail = f"{one.newest} may take {size(needed)}, and {size(budget)} are for models{each}"
            advice = f"raise memory to {size((needed * processes) / MEMORY_SHARE)}, or lower workers"
            yield problem("memory.model", title, f"{detail}; want that", advice)
    total = sum(upper_bound(one.newest.size) for one in stored)
    detail = f"the newest versions may take {size(total)} of {size(budget)}"
    if total > budget and len(stored) > 1:
        advice = "raise memory if all are asked for at once; else models take turns, and each turn is a load"
        yield warning("memory.models", title, f"{detail}; want room for all of them", advice)
    elif total <= budget:
        yield ok("memory.models", title, detail)


def _on_disk(site: Site, stored: Sequence[Stored], room: int) -> Findings:
    title = "models on disk"
    for one in stored:
        if one.newest.size > room:
            detail = f"{one.newest} has {size(one.newest.size)}, and {size(room)} are for downloads; want that"
            yield problem("disk.model", title, detail, _larger(site, one.newest.size))
    total = sum({one.newest.digest: one.newest.size for one in stored}.values())
    detail = f"the newest versions have {size(total)}, and {size(room)} are for downloads"
    if total > room and len(stored) > 1:
        yield warning("disk.models", title, f"{detail}; want room for all of them", _larger(site, total))
    elif total <= room:
        yield ok("disk.models", title, detail)


def _larger(site: Site, needed: int) -> str:
    if is_disk_memory(site.settings):
        return "use a disk for cache_dir, or raise memory, as downloads take some of it there"
    if "AWS_LAMBDA_FUNCTION_NAME" in site.environ:
        return f"raise the function's ephemeral storage to {-(-needed * 2 >> 20)} MB"
    return "make the volume of cache_dir larger, and disk_budget with it"


def _existing(directory: Path) -> Path:
    while not directory.exists():
        directory = directory.parent
    return directory


def check_formats(stored: Sequence[Stored], frontends: Sequence[str]) -> Findings:
    """Compare the models' formats with those that OpenVINO reads here."""
    from handlers.doctor.engine import FRONT_ENDS
    from handlers.doctor.stores import format_of

    for one in stored:
        kind, _ = format_of(one.newest)
        wanted = FRONT_ENDS.get(kind)
        if wanted and wanted not in frontends:
            detail = (
                f"{one.newest} is {kind}, for which the front end {wanted!r} is wanted; found {', '.join(frontends)}"
            )
            advice = "use an image with this front end, or convert the model to OpenVINO's own format (ovc)"
            yield problem("openvino.format", f"model {one.model.name}: format", detail, advice)


def check_compiled(site: Site, stored: Sequence[Stored], version: str, requirements: str) -> Findings:
    """Tell which of what is compiled and published beside the models is for this OpenVINO and this processor."""
    for one in stored:
        names = [blob.key.rpartition("/")[2] for blob in one.newest.compiled]
        if names:
            yield _fitting(site, one, names, version, requirements)


def _fitting(site: Site, one: Stored, names: Sequence[str], version: str, requirements: str) -> Finding:
    from handlers.properties import properties
    from runtime.compiled import Header, Origin, beginning_of, identity_of
    from runtime.options import options_of

    title = f"model {one.model.name}: compiled ahead"
    name = Header(version, requirements, {}, Origin("", 0, ""), 0, "", 0.0).name
    ours = name.partition("-")[2]
    given = beginning_of(identity_of(properties(site.settings, cpu_room(site.root)), options_of(one.newest.options)))
    fitting = [name for name in names if name.endswith(f"-{ours}")]
    if any(name.startswith(given) for name in fitting):
        return ok("compiled", title, f"{len(names)} are published, one of them for this OpenVINO and processor")
    what = "with other properties" if fitting else "for another OpenVINO or processor"
    detail = f"{len(names)} are published, all {what}; this is {requirements or version}"
    return warning("compiled", title, detail, "run decant compile here, with these settings; until then it is compiled")
