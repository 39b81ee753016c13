"""mapping_config.json: what is taken from it, and that a bad one is ignored with a warning."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.engine import MAPPING as FILE
from runtime.mapping import MAX_SIZE, read_names
from runtime.ports import NO_NAMES, Names


def test_without_the_file_tensors_keep_their_names(tmp_path: Path) -> None:
    assert read_names("model/1", tmp_path / FILE) == NO_NAMES == Names({}, {})


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ('{"inputs": {"x": "image"}, "outputs": {"y": "score"}}', Names({"x": "image"}, {"y": "score"})),
        ('{"inputs": {"x": "image"}}', Names({"x": "image"}, {})),
        ('{"outputs": {"a/b:0": "\\u00e4"}}', Names({}, {"a/b:0": "ä"})),
        ("{}", NO_NAMES),
    ],
)
def test_either_part_may_be_absent(content: str, names: Names, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(content)
    assert read_names("model/1", tmp_path / FILE) == names


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b'{"inputs": "\xff"}', "codec"),
        (b"[]", "it is a list; want an object"),
        (b'{"inputs": []}', "its inputs are []; want an object of names"),
        (b'{"outputs": {"y": 1}}', "its outputs are {'y': 1}; want an object of names"),
        (b'{"outputs": {"y": ""}}', "want an object of names"),
        (b'{"outputs": {"y": "\\ud83d"}}', r"its outputs are {'y': '\ud83d'}; want an object of names"),
        (b'{"outputs": {"y": "a\\nb"}}', r"its outputs are {'y': 'a\nb'}; want an object of names"),
        (b'{"input": {}}', "it has ['input']; want inputs and outputs"),
        (b"[" * 100_000, "recursion"),
        (b" " * (MAX_SIZE + 1), f"it has more than {MAX_SIZE} bytes"),
    ],
)
def test_what_makes_no_sense_is_ignored_with_a_warning(
    content: bytes, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert read_names("model/1", tmp_path / FILE) == NO_NAMES
    assert "model/1: ignoring its mapping_config.json: " in caplog.text
    assert reason in caplog.text


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_ignored_with_a_warning(
    make: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path / FILE)
    assert read_names("model/1", tmp_path / FILE) == NO_NAMES
    assert "model/1: ignoring its mapping_config.json: it is no file" in caplog.text
