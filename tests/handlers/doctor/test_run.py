"""Checks that hang, raise or have no thread to run in, and the report as a whole."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from handlers.doctor.finding import Findings, Level, ok
from handlers.doctor.report import as_json, read, report_on
from handlers.doctor.run import Check, Crew
from handlers.settings import Settings
from tests.conftest import DIGITS, ROOT
from tests.fakes import no_more_threads


def check(id: str, run: Callable[[], Findings], patience: float = 10.0, level: Level = Level.WARNING) -> Check:
    return Check(id, f"the {id}", run, patience, level)


def good() -> Findings:
    yield ok("good", "good", "it is")


def bad() -> Findings:
    yield from good()
    raise ValueError("of all things")


def test_what_a_check_raises_is_a_finding_and_the_others_go_on() -> None:
    crew = Crew(time.monotonic() + 10, None)
    found = crew.collect(crew.start([check("bad", bad), check("good", good)]))
    assert [finding.id for finding in found] == ["good", "bad.failed", "good"]
    assert found[1].detail == "it could not be checked: ValueError: of all things"
    assert crew.is_complete


def test_a_check_that_hangs_is_left_behind_with_what_it_has_found() -> None:
    release = threading.Event()

    def hang() -> Findings:
        yield from good()
        release.wait(30)

    try:
        crew = Crew(time.monotonic() + 10, None)
        began = time.monotonic()
        found = crew.collect(crew.start([check("hang", hang, 0.2, Level.PROBLEM), check("good", good)]))
        assert time.monotonic() - began < 5
        assert [(finding.id, finding.level) for finding in found] == [
            ("good", Level.OK),
            ("hang.unanswered", Level.PROBLEM),
            ("good", Level.OK),
        ]
        assert not crew.is_complete
    finally:
        release.set()


def test_what_has_no_turn_before_all_time_is_over_is_told() -> None:
    release = threading.Event()

    def hang() -> Findings:
        release.wait(30)
        yield from good()

    try:
        crew = Crew(time.monotonic() + 0.5, None)
        found = crew.collect(crew.start([*(check(f"h{number}", hang) for number in range(8)), check("late", good)]))
        assert "it was not begun" in found[-1].detail
        assert found[-1].id == "late.unanswered"
    finally:
        release.set()


def test_without_threads_checks_are_run_all_the_same() -> None:
    crew = Crew(time.monotonic() + 10, None)
    with no_more_threads():
        running = crew.start([check("good", good), check("bad", bad)])
    assert [finding.id for finding in crew.collect(running)] == ["good", "good", "bad.failed"]


def test_a_function_gets_the_report_as_json_before_its_time_is_over(tmp_path: Path) -> None:
    settings = Settings(model_name="digits", model_path=str(DIGITS), cache_dir=str(tmp_path / "cache"))
    began = time.monotonic()
    report = json.loads(json.dumps(as_json(settings, remaining=20.0)))
    assert time.monotonic() - began < 20
    assert report.keys() == {"format", "decant", "platform", "level", "seconds", "findings"}
    assert report["format"] == 1
    ids = {finding["id"] for finding in report["findings"]}
    assert {"platform", "tmp", "openvino", "model.read", "memory.models"} <= ids
    assert {finding["level"] for finding in report["findings"]} <= {"ok", "warning", "problem"}
    assert list(tmp_path.iterdir()) == []


def test_what_was_found_before_is_told_first_and_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hushhushhush")
    before = [ok("before", "before", "somebody said hushhushhush")]
    report = report_on(Settings(cache_dir=str(tmp_path)), timeout=0.0, before=before)
    assert report.findings[0].detail == "somebody said ***"
    assert next(report.lines()) == "ok       before: somebody said ***  [before]"


def test_no_time_at_all_still_gives_a_report(tmp_path: Path) -> None:
    report = as_json(Settings(model_path=str(DIGITS), cache_dir=str(tmp_path)), remaining=0.5)
    assert any(finding["id"].endswith(".unanswered") for finding in report["findings"])


def test_settings_that_cannot_be_read_are_told_and_the_others_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "http")
    monkeypatch.setenv("DECANT_LOG_LEVEL", "LOUD")
    monkeypatch.setenv("DECANT_MODEL_NAME", "digits")
    settings, findings = read({"port": "x", "workers": "2"})
    assert [finding.detail.partition(";")[0] for finding in findings] == [
        "--port is 'x'",
        "PORT is 'http'",
        "DECANT_LOG_LEVEL is 'LOUD'",
    ]
    assert (settings.model_name, settings.workers, settings.port, settings.rest_port) == ("digits", 2, 8500, 8501)
    monkeypatch.setenv("GRPC_SERVERS", "many")
    assert read({})[1][-1].detail.startswith("GRPC_SERVERS is 'many'")


def test_every_id_is_on_the_page() -> None:
    calls = (
        r"\b(?:ok|warning|problem|make|Finding|_check|Check)\(\s*\"([a-z_.]+)\"|\brefused\(f?\"[^\"]*\", \"([a-z.]+)\""
    )
    modules = (ROOT / "handlers" / "doctor").glob("*.py")
    found = {first or second for path in modules for first, second in re.findall(calls, path.read_text())}
    names = set(re.findall(r"`([a-z]+[._a-z]*…?)`", (ROOT / "docs" / "doctor.md").read_text()))
    # `settings…` is of all that begin so.
    beginnings = tuple(name[:-1] for name in names if name.endswith("…"))
    assert {id for id in found if id not in names and not id.startswith(beginnings)} == set()
    assert {"model.storage", "disk.room", "process"} <= found
