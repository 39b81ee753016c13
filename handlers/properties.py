"""OpenVINO's properties for the models of this process: from the CPUs that it may use, and from what flags say."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

from handlers.settings import Settings


def properties(settings: Settings, cpus: float) -> Mapping[str, str]:
    """Return what models are compiled with.

    Args:
        settings: what holds before all else is their ``plugin_config``.
        cpus: that this process may use; a worker's share, if there are several.
    """
    return {**_of_cpus(cpus), **(settings.plugin_config or {})}


def _of_cpus(cpus: float) -> Mapping[str, str]:
    # OpenVINO knows the machine, its hyperthreads and its sockets, better than to be told a number of all its CPUs.
    if cpus >= len(os.sched_getaffinity(0)):
        return {}
    # Rounded up: a lone request gets its answer sooner, and what is left of a CPU is used. And not pinned, as those
    # who share the machine would all be pinned to the same CPUs.
    return {"INFERENCE_NUM_THREADS": str(max(1, math.ceil(cpus))), "ENABLE_CPU_PINNING": "NO"}
