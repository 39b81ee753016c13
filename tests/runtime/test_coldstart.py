"""What is made of a recorded start: JSON, a line, a header, metrics, a picture."""

from __future__ import annotations

import json
import re
import threading
import time
import xml.etree.ElementTree as ET
from itertools import pairwise
from typing import Any

import pytest

from model_cache.timeline import FIRST_PREDICTS, MAX_SPANS, Fact, Timeline
from runtime import coldstart

SVG = "{http://www.w3.org/2000/svg}"
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
LOAD = "load resnet/1"


def put(timeline: Timeline, name: str, begin: float, end: float, thread: str = "main", **facts: Fact) -> None:
    """Record a span with times in milliseconds since the start."""
    begun, ended = (timeline.origin + int(at * 1e6) for at in (begin, end))
    timeline.start.put(name, begun, ended, **facts).thread = thread


def recorded(*, idle: float = 5000.0) -> Timeline:
    """Return the start of a server that took 290 ms to be ready and then, after some idle ms, 75 for its first."""
    timeline = Timeline(time.perf_counter_ns() - 20 * 10**9)
    put(timeline, "python", 0, 13)
    put(timeline, "configure", 20, 30)
    put(timeline, "imports.server", 30, 60)
    put(timeline, "imports.openvino", 60, 110)
    put(timeline, "imports.front", 110, 150)
    put(timeline, "list", 62, 65, "list resnet", model="resnet")
    put(timeline, "load", 66, 290, LOAD, model="resnet/1")
    put(timeline, "download", 67, 195, LOAD, bytes=128_000_000)
    put(timeline, "compile", 195.5, 290, LOAD)
    put(timeline, "ready", 290, 290)
    first = 290 + idle
    put(timeline, "first_predict", first, first + 75, "worker", status=200)
    put(timeline, "decode", first, first + 5, "worker")
    put(timeline, "infer", first + 5, first + 75, "worker")
    return timeline


def document(timeline: Timeline) -> Any:
    return json.loads(coldstart.as_json(timeline))


def drawn(timeline: Timeline) -> ET.Element:
    return ET.fromstring(coldstart.as_svg(timeline))


def test_the_json_has_the_start_in_seconds_since_the_process_began() -> None:
    timeline = recorded()
    whole = document(timeline)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", whole["started_at"])
    assert (whole["ready"], whole["first_predict"], whole["is_over"]) == (0.29, 0.075, True)
    assert whole["seconds"] == pytest.approx(0.365)
    assert (whole["dropped"], whole["loads"]) == (0, [])
    (download,) = [span for span in whole["spans"] if span["name"] == "download"]
    facts = {"bytes": 128_000_000, "mb_per_s": 1000.0}
    assert download == {"name": "download", "thread": LOAD, "start": 0.067, "end": 0.195, "facts": facts}


def test_phases_are_as_long_as_at_least_one_of_their_spans_was_under_way() -> None:
    timeline = recorded()
    put(timeline, "download", 100, 211, "load b/1", bytes=16_000_000)
    phases = document(timeline)["phases"]
    assert phases["imports"] == {"count": 3, "seconds": 0.12}
    assert phases["download"] == {"count": 2, "seconds": 0.144, "bytes": 144_000_000, "mb_per_s": 1000.0}


@pytest.mark.parametrize("idle", [0.0, 5000.0])
def test_the_critical_path_adds_up_to_the_start(idle: float) -> None:
    whole = document(recorded(idle=idle))
    path = whole["critical_path"]
    assert sum(step["end"] - step["start"] for step in path) == pytest.approx(whole["seconds"])
    assert all(step["start"] < step["end"] for step in path)
    gaps = [after["start"] - before["end"] for before, after in pairwise(path) if after["start"] != before["end"]]
    assert gaps == ([pytest.approx(idle / 1e3)] if idle else [])


def test_the_critical_path_leaves_out_what_nothing_waited_for() -> None:
    names = [step["name"] for step in document(recorded())["critical_path"]]
    # OpenVINO and the front were imported while the model was under way; "other" is what nothing was recorded of.
    assert names == [
        *("python", "other", "configure", "imports.server", "other", "list", "other"),
        *("download", "other", "compile", "decode", "infer"),
    ]


def test_the_critical_path_goes_by_the_download_if_imports_took_less_and_by_them_if_they_took_more() -> None:
    timeline = Timeline(time.perf_counter_ns() - 10**9)
    put(timeline, "download", 10, 100, LOAD)
    put(timeline, "imports.openvino", 10, 190, "main")
    put(timeline, "compile", 191, 250, LOAD)
    put(timeline, "ready", 250, 250)
    assert [step["name"] for step in document(timeline)["critical_path"]] == [
        *("other", "imports.openvino", "other", "compile"),
    ]


def test_a_request_that_waited_for_the_load_is_not_what_took_long() -> None:
    timeline = Timeline(time.perf_counter_ns() - 10**9)
    put(timeline, "compile", 10, 190, LOAD)
    put(timeline, "first_predict", 5, 200, "worker", status=200)
    put(timeline, "wait", 6, 191, "worker")
    put(timeline, "infer", 191, 200, "worker")
    put(timeline, "ready", 195, 195)
    whole = document(timeline)
    assert whole["seconds"] == 0.2
    assert [step["name"] for step in whole["critical_path"]] == [
        *("other", "first_predict", "other", "compile", "other", "infer"),
    ]


def test_what_a_span_did_besides_its_parts_is_its_own() -> None:
    timeline = Timeline(time.perf_counter_ns() - 10**9)
    put(timeline, "imports.engine", 0, 100)
    put(timeline, "imports.openvino", 10, 40)
    put(timeline, "ready", 100, 100)
    assert [step["name"] for step in document(timeline)["critical_path"]] == [
        *("imports.engine", "imports.openvino", "imports.engine"),
    ]


def test_only_what_moves_bytes_has_a_rate() -> None:
    timeline = recorded()
    put(timeline, "import", 1, 2, LOAD, bytes=2048)
    whole = document(timeline)
    assert whole["phases"]["import"] == {"count": 1, "seconds": 0.001, "bytes": 2048}
    assert "import 2.0 KiB 0.001" in coldstart.summary(timeline)
    assert [span["facts"] for span in whole["spans"] if span["name"] == "import"] == [{"bytes": 2048}]


def test_later_requests_are_no_part_of_the_first_one() -> None:
    timeline = recorded(idle=0)
    put(timeline, "predict", 400, 450, "worker", status=200)
    put(timeline, "infer", 400, 450, "worker")
    assert document(timeline)["phases"]["infer"] == {"count": 1, "seconds": 0.07}
    assert "predict" not in document(timeline)["phases"]
    assert [span["name"] for span in document(timeline)["spans"]][-2:] == ["predict", "infer"]


def test_a_start_under_way_says_how_far_it_has_come() -> None:
    timeline = Timeline(time.perf_counter_ns() - 10**9)
    with timeline.load("resnet/1"), timeline.span("download"):
        whole = document(timeline)
        assert "under way" in coldstart.as_svg(timeline).decode()
    assert (whole["ready"], whole["first_predict"], whole["is_over"]) == (None, None, False)
    assert whole["seconds"] >= 1
    assert [(span["name"], span["end"]) for span in whole["spans"]] == [("load", None), ("download", None)]
    assert [step["name"] for step in whole["critical_path"]][-1] == "download"


def test_a_refused_request_was_not_the_first_predict() -> None:
    timeline = recorded(idle=0)
    other = Timeline(timeline.origin)
    put(other, "first_predict", 1, 2, "worker", status=404)
    put(other, "first_predict", 2, 3, "worker", error="ModelNotFound")
    put(other, "ready", 290, 290)
    put(other, "first_predict", 290, 365, "worker", status=200)
    assert document(other)["seconds"] == document(timeline)["seconds"]


def test_loads_after_the_start_have_their_own_spans() -> None:
    timeline = recorded()
    timeline.ready()
    with timeline.load("digits/2"), timeline.span("download", bytes=10):
        pass
    (load,) = document(timeline)["loads"]
    assert load["model"] == "digits/2"
    assert load["spans"][0]["start"] == 0
    assert load["seconds"] >= load["phases"]["download"]["seconds"]
    assert [span["name"] for span in load["spans"]] == ["load", "download"]


def test_the_line_for_the_log() -> None:
    assert coldstart.summary(recorded()) == (
        "cold start 0.365 s: python 0.013, configure 0.010, imports 0.120, list 0.003, "
        "download 122.1 MiB at 1000 MB/s 0.128, compile 0.095, first predict 0.075"
    )


def test_server_timing_is_a_list_of_tokens_with_durations() -> None:
    value = coldstart.server_timing(recorded())
    metrics = {}
    for metric in value.split(","):
        name, duration = metric.strip().split(";")
        assert TOKEN.fullmatch(name)
        key, number = duration.split("=")
        assert key == "dur"
        metrics[name] = float(number)
    assert metrics["download"] == 128.0
    assert metrics["total"] == pytest.approx(365.0)
    assert "load" not in metrics


def test_server_timing_ends_with_the_first_answers() -> None:
    timeline = Timeline()
    values = []
    for _ in range(FIRST_PREDICTS + 1):
        with timeline.predict():
            values.append(coldstart.server_timing(timeline))
    assert [bool(value) for value in values] == [True] * FIRST_PREDICTS + [False]


UNITS = {"Milliseconds", "Bytes"}


def check_emf(line: str) -> dict[str, Any]:
    """Check what CloudWatch's specification of the Embedded Metric Format says; return the document."""
    assert "\n" not in line
    assert len(line) <= 1 << 20
    whole: dict[str, Any] = json.loads(line)
    metadata = whole["_aws"]
    assert set(metadata) == {"Timestamp", "CloudWatchMetrics"}
    assert isinstance(metadata["Timestamp"], int)
    assert abs(metadata["Timestamp"] - time.time() * 1e3) < 60_000
    (directive,) = metadata["CloudWatchMetrics"]
    assert set(directive) == {"Namespace", "Dimensions", "Metrics"}
    assert 1 <= len(directive["Namespace"]) <= 1024
    assert ":" not in directive["Namespace"]
    for dimensions in directive["Dimensions"]:
        assert len(dimensions) <= 30
        for name in dimensions:
            assert 1 <= len(name) <= 250
            assert isinstance(whole[name], str)
            assert 1 <= len(whole[name]) <= 1024
            assert whole[name].isascii()
            assert whole[name].isprintable()
    assert 1 <= len(directive["Metrics"]) <= 100
    for metric in directive["Metrics"]:
        assert set(metric) <= {"Name", "Unit", "StorageResolution"}
        assert 1 <= len(metric["Name"]) <= 1024
        assert metric["Unit"] in UNITS
        value = whole[metric["Name"]]
        assert isinstance(value, int | float)
        assert not isinstance(value, bool)
        assert value >= 0
    names = [metric["Name"] for metric in directive["Metrics"]]
    assert len(set(names)) == len(names)
    assert set(whole) == {"_aws", *dimensions, *names}
    return whole


def test_emf_is_what_cloudwatch_specifies() -> None:
    whole = check_emf(coldstart.emf({"FunctionName": "digits", "FunctionVersion": "$LATEST"}, recorded()))
    assert (whole["FunctionName"], whole["FunctionVersion"]) == ("digits", "$LATEST")
    assert whole["ColdStart"] == pytest.approx(365.0)
    assert whole["FirstPredict"] == pytest.approx(75.0)
    assert (whole["Download"], whole["DownloadBytes"]) == (128.0, 128_000_000)
    assert whole["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "Decant"


def test_emf_of_odd_dimensions_is_valid_too() -> None:
    whole = check_emf(coldstart.emf({"Model": "ü\n" * 2000, "FunctionName": " "}, recorded()))
    assert "FunctionName" not in whole


def test_the_picture_is_xml_with_a_row_for_each_span_and_no_script() -> None:
    svg = drawn(recorded())
    assert svg.tag == f"{SVG}svg"
    assert {element.tag for element in svg.iter()} == {
        f"{SVG}{tag}" for tag in ("svg", "style", "title", "g", "rect", "text", "line")
    }
    rows = [title.text or "" for title in svg.findall(f"{SVG}g/{SVG}title")]
    assert len(rows) == 12
    assert f"download, 67 ms to 195 ms; {LOAD}; bytes 128000000" in rows
    texts = [text.text for text in svg.iter(f"{SVG}text")]
    assert {"cold start 0.365 s", "main", LOAD, "worker", "128 ms, 122.1 MiB at 1000 MB/s"} <= set(texts)


def test_everything_is_within_the_picture() -> None:
    svg = drawn(recorded())
    width, height = float(svg.attrib["width"]), float(svg.attrib["height"])
    for rect in svg.iter(f"{SVG}rect"):
        x, y, wide, high = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
        assert x >= 0
        assert y >= 0
        assert x + wide <= width
        assert y + high <= height


def test_bars_are_as_long_as_their_spans_and_idle_stretches_are_cut() -> None:
    def bars(timeline: Timeline) -> dict[str, float]:
        rows = drawn(timeline).findall(f"{SVG}g")
        return {row[0].text.partition(",")[0]: float(row.find(f"{SVG}rect").attrib["width"]) for row in rows}  # type: ignore[union-attr]

    for idle in (0.0, 3600_000.0):
        widths = bars(recorded(idle=idle))
        assert widths["download"] / widths["first_predict"] == pytest.approx(128 / 75, rel=0.01)
        assert widths["download"] > 200


ODD = "</text><script>alert(1)</script>&\"'\x00\x1b\ud800\ufffe" + "n" * 500


def test_odd_names_are_escaped_and_cut() -> None:
    timeline = recorded()
    put(timeline, "compile", 1, 2, ODD, model=ODD)
    timeline.ready()
    with timeline.load(ODD), timeline.span("compile", model=ODD):
        pass
    svg = drawn(timeline)
    assert not list(svg.iter(f"{SVG}script"))
    assert max(len(text.text or "") for text in svg.iter(f"{SVG}text")) <= 120
    assert any("</text><script>alert" in (text.text or "") for text in svg.iter(f"{SVG}text"))
    assert document(timeline)["loads"][0]["model"].startswith("</text><script>")


def test_a_picture_of_nothing_and_one_of_too_much() -> None:
    assert drawn(Timeline()).tag == f"{SVG}svg"
    timeline = recorded()
    for number in range(MAX_SPANS):
        put(timeline, "list", number, number + 1, f"thread {number % 7}")
    assert len(drawn(timeline).findall(f"{SVG}g")) == MAX_SPANS - 1
    assert document(timeline)["dropped"] == 13


def test_it_can_be_looked_at_while_others_record() -> None:
    timeline = Timeline()
    done = threading.Event()

    def record() -> None:
        while not done.wait(0.0005):
            with timeline.load("digits/1"), timeline.span("download", bytes=1) as span:
                span.add(files=1)

    recorder = threading.Thread(target=record)
    recorder.start()
    try:
        for number in range(20):
            if number == 10:
                timeline.ready()
            whole = document(timeline)
            drawn(timeline)
            assert all(span["end"] is None or span["start"] <= span["end"] for span in whole["spans"])
    finally:
        done.set()
        recorder.join()
