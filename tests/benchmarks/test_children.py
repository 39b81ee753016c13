"""Processes that the benchmarks start."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from benchmarks.children import Script, openvino_alone, wait_until_idle
from benchmarks.in_process import SETTINGS
from benchmarks.memory import usage
from benchmarks.tasks import BenchmarkFailed, digits


def test_openvino_alone_answers_commands_until_the_block_ends(tmp_path: Path) -> None:
    with openvino_alone(digits(tmp_path), tmp_path) as script:
        assert len(script.ask(do="one_by_one", count=3)) == 3
        for setting in SETTINGS:
            result = script.ask(do="press", setting=setting, callers=2, seconds=0.05)
            assert result["seconds"] >= 0.05
            assert len(result["latencies"]) > 1
        wait_until_idle(script.pid)
        used = usage(script.pid)
    assert used["Rss"] > used["Pss"] > 10
    assert not psutil.pid_exists(script.pid)


def test_a_script_that_fails_is_quoted(tmp_path: Path) -> None:
    arguments = (str(tmp_path / "no.xml"), str(tmp_path / "no.npy"))
    with (
        Script("in_process.py", *arguments, log=tmp_path / "log") as script,
        pytest.raises(BenchmarkFailed, match=r"(?s)in_process.py ended.*No such file"),
    ):
        script.ask(do="one_by_one", count=1)


def test_a_process_that_has_ended_is_no_idle_process() -> None:
    with pytest.raises(BenchmarkFailed, match="ended while it was measured"):
        wait_until_idle(2**22 + 1)
