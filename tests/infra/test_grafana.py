"""That the dashboard shows what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

from runtime.metric_families import FAMILIES
from runtime.metrics import Metrics

DASHBOARD = json.loads((Path(__file__).parents[2] / "infra" / "grafana" / "decant.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
PARTS = ("_bucket", "_sum", "_count")


def family_of(name: str) -> str:
    base = next((name.removesuffix(part) for part in PARTS if name.endswith(part)), name)
    return base if FAMILIES.get(base, FAMILIES["ovms_streams"]).kind == "histogram" else name


def test_every_metric_of_the_dashboard_is_there_by_default() -> None:
    named = {family_of(name) for expr in EXPRESSIONS for name in re.findall(r"\b(?:ovms|decant)_\w+", expr)}
    assert named <= Metrics().families
    # What it does not show is shown otherwise in it, or of interest to few.
    assert Metrics().families - named == {
        "decant_compile_seconds_total",
        "decant_downloads_total",
        "decant_model_bytes",
        "decant_warmup_seconds_total",
        "ovms_streams",
    }


def test_panels_have_places_of_their_own() -> None:
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
