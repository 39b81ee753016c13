"""The recorder: what is kept, for how long, and that it is bounded."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from model_cache.timeline import (
    FAILED_PREDICTS,
    FIRST_PREDICTS,
    MAX_LOADS,
    MAX_SPANS,
    MAX_SPANS_OF_LOAD,
    NOTHING,
    Record,
    Timeline,
)


def names(record: Record) -> list[str]:
    return [span.name for span in record.spans]


def over() -> Timeline:
    """Return one whose start is over."""
    timeline = Timeline()
    timeline.ready()
    for _ in range(FIRST_PREDICTS):
        with timeline.predict():
            pass
    return timeline


def test_a_span_has_its_name_thread_times_and_facts() -> None:
    timeline = Timeline()
    before = time.perf_counter_ns()
    with timeline.span("download", bytes=3) as span:
        assert timeline.start.spans[0].end is None
        span.add(files=1)
        span.add(bytes=4)
    (recorded,) = timeline.start.spans
    assert (recorded.name, recorded.thread) == ("download", threading.current_thread().name)
    assert recorded.facts == {"bytes": 4, "files": 1}
    assert recorded.end is not None
    assert timeline.origin <= before <= recorded.begin <= recorded.end <= time.perf_counter_ns()


def test_a_span_that_fails_says_the_errors_type_and_nothing_of_its_message() -> None:
    timeline = Timeline()
    with pytest.raises(OSError, match="secret"), timeline.span("list"):
        raise FileNotFoundError("/secret/path")
    assert timeline.start.spans[0].facts == {"error": "FileNotFoundError"}
    assert timeline.start.spans[0].end is not None


def test_what_comes_when_the_process_is_ready_goes_nowhere() -> None:
    timeline = Timeline()
    timeline.ready()
    timeline.ready()
    with timeline.span("list"):
        pass
    assert names(timeline.start) == ["ready"]


def test_a_start_goes_on_while_a_first_predict_does() -> None:
    timeline = Timeline()
    timeline.ready()
    with timeline.predict() as predict, timeline.span("wait"):
        predict.add(status=200)
    with timeline.span("list"):
        pass
    assert names(timeline.start) == ["ready", "first_predict", "wait"]


def test_a_first_predict_goes_on_until_one_is_answered() -> None:
    timeline = Timeline()
    with timeline.predict() as predict:
        predict.add(status=404)
    with pytest.raises(RuntimeError), timeline.predict():
        raise RuntimeError
    with timeline.predict() as predict:
        predict.add(status=200)
    assert names(timeline.start) == ["first_predict"] * 3
    for _ in range(FIRST_PREDICTS - 1):
        assert timeline.is_fresh
        with timeline.predict():
            pass
    assert not timeline.is_fresh
    assert timeline.predict() is NOTHING


def test_however_many_predicts_fail_the_first_answer_is_recorded() -> None:
    timeline = Timeline()
    with timeline.span("configure"):
        pass
    timeline.ready()
    for _ in range(MAX_SPANS):
        with timeline.predict() as predict:
            timeline.lap("decode")
            with timeline.span("list"):
                predict.add(status=404)
    with timeline.predict():
        timeline.lap("decode")
    failed = ["first_predict", "decode", "list"] * FAILED_PREDICTS
    assert names(timeline.start) == ["configure", "ready", *failed, "first_predict", "decode"]
    assert timeline.start.dropped == 0


def test_a_predict_that_fails_takes_nothing_of_other_threads_with_it() -> None:
    timeline = Timeline()
    timeline.ready()
    for _ in range(FAILED_PREDICTS + 1):
        with timeline.predict() as predict, ThreadPoolExecutor(1) as other:
            other.submit(lambda: timeline.span("download").__enter__()).result()
            predict.add(status=503)
    assert names(timeline.start).count("download") == FAILED_PREDICTS + 1


def test_a_predict_answered_before_all_is_ready_does_not_end_the_start() -> None:
    timeline = Timeline()
    with timeline.predict():
        pass
    with timeline.span("download"):
        pass
    assert names(timeline.start) == ["first_predict", "download"]


def test_predicts_behind_the_first_one_have_another_name() -> None:
    timeline = Timeline()
    timeline.ready()
    for _ in range(FIRST_PREDICTS + 1):
        with timeline.predict():
            pass
    assert names(timeline.start) == ["ready", "first_predict", *["predict"] * (FIRST_PREDICTS - 1)]


def test_laps_follow_each_other_within_their_threads_predict() -> None:
    timeline = Timeline()
    timeline.lap("nowhere")
    with timeline.predict():
        timeline.lap("decode")
        with ThreadPoolExecutor(1) as other:
            other.submit(timeline.lap, "nowhere").result()
        timeline.lap("infer")
    timeline.lap("nowhere")
    predict, decode, infer = timeline.start.spans
    assert (decode.name, infer.name) == ("decode", "infer")
    assert predict.begin == decode.begin
    assert decode.end == infer.begin


def test_a_load_has_a_record_of_its_own_when_the_start_is_over() -> None:
    timeline = over()
    with timeline.load("digits/2"), timeline.span("download"):
        pass
    with timeline.span("list"):
        pass
    (record,) = timeline.loads
    assert names(record) == ["load", "download"]
    assert record.spans[0].facts == {"model": "digits/2"}
    assert "download" not in names(timeline.start)


def test_a_load_that_began_in_the_start_stays_in_it() -> None:
    timeline = Timeline()
    with timeline.load("slow/1"):
        timeline.ready()
        with timeline.span("compile"):
            pass
    assert names(timeline.start) == ["load", "ready", "compile"]
    assert timeline.loads == []


def test_a_load_takes_nothing_of_other_threads() -> None:
    timeline = over()

    def elsewhere() -> None:
        with timeline.span("list"):
            pass

    with timeline.load("digits/2"), ThreadPoolExecutor(1) as other:
        other.submit(elsewhere).result()
    assert names(timeline.loads[0]) == ["load"]


def test_only_the_last_loads_are_kept() -> None:
    timeline = over()
    for number in range(MAX_LOADS + 3):
        with timeline.load(f"m/{number}"):
            for _ in range(MAX_SPANS_OF_LOAD + 4):
                with timeline.span("list"):
                    pass
    assert [record.spans[0].facts["model"] for record in timeline.loads] == [f"m/{3 + i}" for i in range(MAX_LOADS)]
    assert {(len(record.spans), record.dropped) for record in timeline.loads} == {(MAX_SPANS_OF_LOAD, 5)}


def test_many_spans_of_many_threads_are_bounded_and_counted() -> None:
    timeline = Timeline()
    threads, each = 8, 300
    begin = threading.Barrier(threads)

    def work() -> None:
        begin.wait(10)
        for _ in range(each):
            with timeline.span("list", bytes=1) as span:
                span.add(files=1)

    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(work) for _ in range(threads)]:
            future.result()
    assert len(timeline.start.spans) == MAX_SPANS
    assert timeline.start.dropped == threads * each - MAX_SPANS


def test_predicts_at_the_same_time_leave_the_start_open_until_the_last_one() -> None:
    timeline = Timeline()
    timeline.ready()
    one, other = timeline.predict(), timeline.predict()
    with one:
        with other:
            pass
        with timeline.span("list"):
            pass
    with timeline.span("list"):
        pass
    assert names(timeline.start) == ["ready", "first_predict", "first_predict", "list"]


def test_after_a_restore_the_clock_begins_anew() -> None:
    timeline = over()
    with timeline.load("digits/1"):
        pass
    before = time.perf_counter_ns()
    timeline.restart()
    with timeline.span("restore"):
        pass
    assert names(timeline.start) == ["restore"]
    assert timeline.loads == []
    assert timeline.origin >= before
    assert abs(timeline.started_at - time.time()) < 5
    assert timeline.is_fresh


PROBE = """
import sys, time
before = set(sys.modules)
from model_cache.timeline import timeline
import json
python = timeline.start.spans[0]
at = timeline.started_at
print(json.dumps([python.name, python.begin - timeline.origin, python.end - python.begin, at, time.time(),
                  sorted(set(sys.modules) - before)]))
"""


def test_the_clock_begins_with_the_process() -> None:
    before = time.time()
    out = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, check=True, text=True, timeout=30).stdout
    name, begin, length, started_at, now, _ = json.loads(out)
    assert (name, begin) == ("python", 0)
    # The kernel counts a process's start in ticks of 10 ms, rounded down.
    assert before - 0.02 <= started_at < now
    assert 0 < length / 1e9 <= now - before + 0.02


def test_the_recorder_imports_next_to_nothing() -> None:
    probe = [sys.executable, "-S", "-c", PROBE]
    out = subprocess.run(probe, capture_output=True, check=True, text=True, timeout=30).stdout
    imported = {module.partition(".")[0] for module in json.loads(out)[-1]}
    heavy = {"typing", "logging", "pathlib", "dataclasses", "datetime", "re", "asyncio", "numpy"}
    assert imported & heavy <= {"typing", "re"}
