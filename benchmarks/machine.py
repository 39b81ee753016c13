"""What a benchmark ran on, and how quiet it was there."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import openvino as ov

from tests.servers import ROOT

_of_grandchildren = 0.0


def machine() -> dict[str, str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory / 2**30:.0f} GiB",
        "python": platform.python_version(),
        "openvino": ov.get_version(),
    }


@contextlib.contextmanager
def noting_others(facts: dict[str, str]) -> Iterator[None]:
    """Add to the facts how much of the machine was busy with something else meanwhile."""
    began, busy, ours = time.perf_counter(), _busy(), _ours()
    yield
    capacity = (time.perf_counter() - began) * (os.cpu_count() or 1)
    others = _busy() - busy - (_ours() - ours)
    facts["processors busy with other work"] = f"{max(0.0, others / capacity):.0%}"


def let_python_keep_what_it_compiles() -> None:
    """For all children alike, as an image and a wheel have it. Where it is told not to, each start compiles anew."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(ROOT / "build" / "pycache")


def count_as_ours(seconds: float) -> None:
    """Add what children of children have used, of which the kernel tells us nothing once they are killed."""
    global _of_grandchildren  # noqa: PLW0603
    _of_grandchildren += seconds


def _busy() -> float:
    """Seconds of processor time that the machine has used since it started: proc(5), the first line of stat."""
    user, nice, system, _idle, _iowait, *interrupts = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def _ours() -> float:
    """Seconds that this process and the children it has waited for have used."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system + _of_grandchildren


def _cpu_model() -> str:
    """The name, family and model, as virtual machines often give no more than "AMD EPYC" for a name."""
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    family, model = facts.get("cpu family", "?"), facts.get("model", "?")
    return f"{facts.get('model name', platform.machine())} (family {family}, model {model})"
