"""What models are compiled with, by the CPUs there are and by what flags say."""

from __future__ import annotations

import os

import pytest

from handlers.properties import properties
from handlers.settings import Settings

CPUS = len(os.sched_getaffinity(0))


def test_where_all_cpus_may_be_used_openvino_knows_best() -> None:
    assert properties(Settings(), CPUS) == {}
    assert properties(Settings(), CPUS + 0.5) == {}


@pytest.mark.parametrize(("cpus", "threads"), [(0.07, "1"), (0.5, "1"), (CPUS - 0.5, str(CPUS))])
def test_under_a_quota_there_are_as_many_threads_and_none_is_pinned(cpus: float, threads: str) -> None:
    assert properties(Settings(), cpus) == {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": "NO"}


def test_what_flags_say_comes_first() -> None:
    settings = Settings(plugin_config={"INFERENCE_NUM_THREADS": "8", "PERFORMANCE_HINT": "THROUGHPUT"})
    assert properties(settings, 0.5) == {
        "INFERENCE_NUM_THREADS": "8",
        "ENABLE_CPU_PINNING": "NO",
        "PERFORMANCE_HINT": "THROUGHPUT",
    }
