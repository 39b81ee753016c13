"""The CPUs: how much of them may be used, against the threads that settings ask for."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

from handlers.configuration import ModelConfig
from handlers.doctor.finding import Findings, Site, ok, warning
from handlers.limits import cpu_room
from handlers.properties import properties

_THREADS = "INFERENCE_NUM_THREADS"
_LITTLE = 0.5


def check_cpu(site: Site) -> Findings:
    machine, room = len(os.sched_getaffinity(0)), cpu_room(site.root)
    workers = workers_of(site, room)
    config = properties(site.settings, room / workers)
    threads = config.get(_THREADS, f"as many as OpenVINO finds best of {machine}")
    detail = f"{room:.2f} of {machine} CPUs may be used; threads of a model: {threads}"
    if room < _LITTLE:
        advice = "grant a CPU or more: imports, compiling and inference all take that much longer"
        yield warning("cpu.quota", "CPUs", f"{detail}; want {_LITTLE} at least", advice)
    else:
        yield ok("cpu.quota", "CPUs", detail)
    if site.settings.workers > max(1, math.ceil(room)):
        advice = "lower workers: each has the models in memory once more, and none gets a CPU"
        detail = f"workers is {site.settings.workers} on {room:.2f} CPUs; want {max(1, math.ceil(room))} at most"
        yield warning("cpu.workers", "workers", detail, advice)
    yield from _check_properties("properties of all models", site.settings.plugin_config or {}, room / workers)


def check_model_properties(site: Site, model: ModelConfig) -> Findings:
    """Compare what the model's own properties ask for with the CPUs there are."""
    room = cpu_room(site.root)
    yield from _check_properties(f"model {model.name}", dict(model.options.properties), room / workers_of(site, room))


def _check_properties(name: str, given: Mapping[str, str], room: float) -> Findings:
    threads, most = given.get(_THREADS, ""), max(1, math.ceil(room))
    if threads.isdecimal() and int(threads) > most:
        detail = f"{_THREADS} is {threads} where {room:.2f} CPUs may be used; want {most} at most"
        yield warning("cpu.threads", name, detail, "leave it out: threads above the quota are stopped in mid-inference")
    if given.get("PERFORMANCE_HINT") == "THROUGHPUT" and room < 2:
        detail = f"PERFORMANCE_HINT is THROUGHPUT where {room:.2f} CPUs may be used; want two for that"
        yield warning("cpu.hint", name, detail, "leave it out: LATENCY answers in half the time there")
    if given.get("ENABLE_CPU_PINNING") in ("YES", "true") and room < len(os.sched_getaffinity(0)):
        detail = f"ENABLE_CPU_PINNING is on, and only {room:.2f} CPUs of the machine may be used"
        yield warning("cpu.pinning", name, detail, "leave it out: neighbours would be pinned to the same CPUs")


def workers_of(site: Site, room: float) -> int:
    """Return how many processes there are to be."""
    return site.settings.workers or max(1, math.floor(room))
