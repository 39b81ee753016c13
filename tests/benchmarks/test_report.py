"""What the benchmarks say of what they measured."""

from __future__ import annotations

import pytest

from benchmarks.report import Cell, Findings, Verdict, as_json, median_difference, percentile, show, table, verdicts


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 50), (50.1, 51), (99, 99), (99.5, 100), (100, 100)]
)
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(percent: float, expected: float) -> None:
    assert percentile([float(value) for value in range(100, 0, -1)], percent) == expected


def test_of_few_values_the_upper_percentiles_are_the_largest() -> None:
    assert [percentile([3.0, 1.0], percent) for percent in (50, 51, 99)] == [1.0, 3.0, 3.0]


def test_a_difference_is_taken_within_each_round() -> None:
    # The third round was slow for both.
    assert median_difference([3.0, 3.5, 90.0], [1.0, 1.5, 88.5]) == 2.0


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (None, ""),
        ("text", "text"),
        (12345, "12,345"),
        (0.0, "0"),
        (0.04567, "0.0457"),
        (1.304, "1.30"),
        (45.67, "45.7"),
        (1234.5, "1,234"),
        (-2.625, "-2.62"),
    ],
)
def test_numbers_are_shown_with_three_digits(cell: Cell, expected: str) -> None:
    assert show(cell) == expected


def test_a_table_aligns_text_to_the_left_and_numbers_to_the_right() -> None:
    assert table((" model", "s"), [("digits", 0.5)]) == "| model | s |\n| --- | ---: |\n| digits | 0.500 |"


def test_a_target_that_is_nearly_reached_is_not_reached_and_does_not_look_it() -> None:
    found = [
        Verdict("start", 1.304, "x floor", 1.3),
        Verdict("start", 1.3, "x floor", 1.3),
        Verdict("rate", 0.949, "x in process", 0.95, at_least=True),
        Verdict("rate", 0.95, "x in process", 0.95, at_least=True),
    ]
    assert verdicts(found).splitlines()[2:] == [
        "| start | 1.304 x floor | <= 1.3 x floor | no |",
        "| start | 1.300 x floor | <= 1.3 x floor | yes |",
        "| rate | 0.949 x in process | >= 0.95 x in process | no |",
        "| rate | 0.950 x in process | >= 0.95 x in process | yes |",
    ]


def test_json_has_every_figure() -> None:
    found = Findings("Cold", [], [Verdict("start", 1.2, "x", 1.3)], ["a note"], {"digits": [0.1, 0.2]})
    assert as_json({"cpu": "one"}, [found]) == {
        "machine": {"cpu": "one"},
        "targets": [{"what": "start", "now": 1.2, "unit": "x", "target": 1.3, "reached": True}],
        "notes": {"Cold": ["a note"]},
        "figures": {"Cold": {"digits": [0.1, 0.2]}},
    }
