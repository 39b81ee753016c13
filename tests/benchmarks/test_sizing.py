"""Sizes: a real model measured for a moment, and the page that the tables go to."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from benchmarks import sizing
from benchmarks.cgroup import why_not
from benchmarks.costs import break_even, container_million, lambda_million, lone_million, warm_month
from benchmarks.load import Load
from benchmarks.prices import CLOUD_RUN_INSTANCES, CLOUD_RUN_REQUESTS, DATE, LAMBDA_X86
from benchmarks.sizing import Plan
from benchmarks.sizing_doc import MACHINE, PAGE, tables_of, written
from benchmarks.sizing_subjects import local
from benchmarks.sizing_tables import TABLES, Function, Held, Limited, cheapest, cost_tables, measured_tables, memory_of
from benchmarks.tasks import BenchmarkFailed
from tests.servers.lambda_emulator import lambda_emulator

MIB = 1 << 20
SHORT = Plan(callers=(1, 2), cpus=(1,), memories=(1769,), limited=["digits"], threads=(), seconds=0.1)


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not()), reason=f"{why_not()}; run as root on a machine with memory and cpu controllers")
def test_a_model_is_measured_under_limits(tmp_path: Path) -> None:
    found = sizing.findings(tmp_path, SHORT, ["digits"])
    assert [row["callers"] for row in found.figures["memory"]] == [1, 2]
    # Python, OpenVINO and numpy alone are more than 50 MiB.
    assert all(50 * MIB < row["peak"] < 1000 * MIB for row in found.figures["memory"])
    [row] = found.figures["limited"]
    assert row["start"] > 0.1
    assert row["one"]["errors"] == row["four"]["errors"] == 0
    assert row["one"]["rate"] > 1
    [function] = found.figures["lambda"]
    assert function["start"] > function["p50"] > 0
    assert function["peak"] > 50 * MIB
    # One model is no line through sizes.
    assert set(found.figures["tables"]) == set(TABLES) - {"fit"}


def test_what_the_kernel_has_killed_had_too_little_memory_and_nothing_else_had(tmp_path: Path) -> None:
    handler = "import os\n\ndef handler(event, context):\n    return os.kill(os.getpid(), event['signal'])\n"
    (tmp_path / "killed.py").write_text(handler)
    with lambda_emulator(tmp_path, "killed.handler") as emulator:
        assert sizing.invoke(emulator, {"signal": signal.SIGKILL}) is None
        with pytest.raises(BenchmarkFailed, match="signal: terminated"):
            sizing.invoke(emulator, {"signal": signal.SIGTERM})


def test_a_directory_without_a_version_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkFailed, match=r"want .*/1/model.xml"):
        local("m", tmp_path)


LOAD = Load(20.0, 0.05, 0.06, 0)
HELD = [Held("m", 100 * MIB, 1 << 20, callers, peak * MIB) for callers, peak in ((1, 300), (4, 400), (16, 900))]
LIMITED = [Limited("m", cpus, None, 1.0, LOAD, LOAD) for cpus in (0.5, 1, 2)]
FUNCTIONS = [
    Function("m", 512, None, None, None, None, 512 * MIB),
    Function("m", 1769, 2.0, 0.05, 0.05, 0.06, 300 * MIB),
    Function("m", 3538, 1.5, 0.04, 0.04, 0.05, 300 * MIB),
]


def test_containers_are_given_memory_for_four_requests() -> None:
    # 400 MiB and a quarter, in steps of 256; what sixteen would take is not paid for.
    assert memory_of(HELD, "m") == 0.5
    assert memory_of([HELD[0], HELD[1]._replace(peak=500 * MIB)], "m") == 0.75


def test_the_cheapest_function_is_one_that_works() -> None:
    assert cheapest(FUNCTIONS) == FUNCTIONS[1]
    assert cheapest(FUNCTIONS[:1]) is None


def test_tables_have_a_row_for_each_model_and_say_what_was_not_enough() -> None:
    tables = {**measured_tables(HELD, LIMITED, FUNCTIONS), **cost_tables(HELD, LIMITED, FUNCTIONS)}
    assert "| m | 512 | 0.289 | not enough |" in tables["lambda"]
    assert "| m | 512 |" not in tables["lambda-costs"]
    [row] = tables["container-costs"].splitlines()[2:]
    request_based = container_million(CLOUD_RUN_REQUESTS, 1, 0.5, 20, 0.5)
    assert f"| m | 0.500 | 20.0 | {request_based:.2f} |" in row
    [row] = tables["always-on"].splitlines()[2:]
    even = break_even(lambda_million(LAMBDA_X86, 1769, 0.05), warm_month(CLOUD_RUN_INSTANCES, 1, 0.5))
    assert row.split("|")[-3:-1] == [f" {even:.1f} ", " 20.0 "]


def test_the_page_has_a_place_for_every_table() -> None:
    page = PAGE.read_text()
    tables = {name: f"table of {name}" for name in (*TABLES, MACHINE)}
    filled = written(page, tables)
    assert all(f"<!-- sizing: {name} -->\ntable of {name}\n<!-- end -->" in filled for name in tables)
    # Once more is the same, and another table takes the first's place.
    assert written(filled, tables) == filled
    assert "table of fit" not in written(filled, {**tables, "fit": "another"})
    del tables["fit"]
    with pytest.raises(ValueError, match=r"places for .*fit"):
        written(page, tables)


def test_a_benchmark_without_sizes_writes_nothing() -> None:
    with pytest.raises(ValueError, match="--parts sizing"):
        tables_of({"machine": {}, "figures": {}})


def test_the_worked_examples_are_right() -> None:
    page = re.sub(r"\s+", " ", PAGE.read_text())
    million = lambda_million(LAMBDA_X86, 1769, 0.045)
    month = warm_month(CLOUD_RUN_INSTANCES, 1, 1)
    for figure in (
        f"**{million:.2f} USD** a million",
        f"**{container_million(CLOUD_RUN_REQUESTS, 1, 1, 22, 0.5):.2f} USD** a million",
        f"Always busy it would be {container_million(CLOUD_RUN_REQUESTS, 1, 1, 22):.2f}",
        f"100 ms each, **{lone_million(CLOUD_RUN_REQUESTS, 1, 1, 0.045):.2f}**",
        f"**{month:.2f} USD** a month",
        f"at {month / million:.0f} million requests a month, **{break_even(million, month):.1f}** a second",
        f"**{lambda_million(LAMBDA_X86, 1769, 0.002):.2f} USD** a million",
        f"those of {DATE}",
    ):
        assert figure in page
