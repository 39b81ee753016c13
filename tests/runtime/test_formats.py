"""Which of a version's files is the model, in OpenVINO Model Server's order; and that OpenVINO reads each format."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from model_cache.errors import LoadFailed
from runtime.formats import model_file
from tests.runtime import models
from tests.runtime.tensorflow_graph import frozen_graph, saved_model

ALL = [
    ("model.xml", "model.xml"),
    ("model.onnx", "model.onnx"),
    ("model.pdmodel", "model.pdmodel"),
    ("model.json", "model.json"),
    ("saved_model.pb", "1"),
    ("graph.pb", "graph.pb"),
    ("model.tflite", "model.tflite"),
]


def version_of(tmp_path: Path, *names: str) -> tuple[Path, Path]:
    directory = tmp_path / "1"
    directory.mkdir(exist_ok=True)
    for name in names:
        (directory / name).touch()
    return directory, model_file(models.version_at(tmp_path), directory)


@pytest.mark.parametrize("first", range(len(ALL)))
def test_the_first_format_that_is_there_is_the_models(first: int, tmp_path: Path) -> None:
    # A .json is a Paddle model if its weights are beside it.
    names = [name for name, _ in ALL[first:]] + ["model.pdiparams"] * (first <= 3)
    _, found = version_of(tmp_path, *names, "mapping_config.json", "readme.md")
    assert found.name == ALL[first][1]


@pytest.mark.parametrize("suffix", [".xml", ".onnx", ".pdmodel", ".pb", ".tflite"])
def test_two_models_of_the_format_that_counts_are_one_too_many(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match=rf"model/1 has 2 \{suffix} files; want one: a\{suffix}, b\{suffix}"):
        version_of(tmp_path, f"b{suffix}", f"a{suffix}")


def test_what_was_found_is_told_if_it_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed) as caught:
        version_of(tmp_path, "model.bin", "config.json", *(f"{i}.txt" for i in range(10)))
    assert str(caught.value) == (
        "File not found or cannot open: no model in model/1: want one .xml with its .bin, .onnx, .pdmodel or .json "
        "with its .pdiparams, saved_model.pb, frozen .pb or .tflite; found 0.txt, 1.txt, 2.txt, 3.txt, 4.txt, 5.txt, "
        "6.txt, 7.txt, 8.txt, 9.txt and 2 more"
    )


@pytest.mark.parametrize(("model", "weights"), [("model.xml", "model.bin"), ("model.pdmodel", "model.pdiparams")])
def test_weights_are_a_file(model: str, weights: str, tmp_path: Path) -> None:
    directory, _ = version_of(tmp_path, model)
    os.mkfifo(directory / weights)
    with pytest.raises(LoadFailed, match=f"{weights} of model/1 is no file"):
        version_of(tmp_path)


def answer(base: Path) -> list[float]:
    with models.loaded(base) as servable:
        (spec,) = servable.signatures["serving_default"].inputs.values()
        assert (spec.dtype, spec.shape) == (np.dtype(np.float32), (-1, 2))
        (y,) = servable.predict("serving_default", {spec.name: np.array([[1, 2]], np.float32)}).values()
        values: list[float] = y[0].tolist()
        return values


def test_a_frozen_graph_of_tensorflow_answers(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "graph.pb").write_bytes(frozen_graph())
    assert answer(tmp_path) == [2, 4]


def test_a_saved_model_answers(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(saved_model())
    assert answer(tmp_path) == [2, 4]
    with models.loaded(tmp_path) as servable:
        signature = servable.signatures["serving_default"]
        # The signature's names, not the graph's.
        assert (list(signature.inputs), list(signature.outputs)) == (["x"], ["y"])


def test_a_saved_model_that_is_broken_says_so_without_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"\0garbage")
    with pytest.raises(LoadFailed, match="cannot load model/1 from its SavedModel: ") as caught:
        models.load(tmp_path)
    assert str(tmp_path) not in str(caught.value)
