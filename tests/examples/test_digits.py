"""The bundled model as it is committed: what it promises, how often it is right, and that its script still makes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
DIGITS = EXAMPLES / "digits"
MODEL = DIGITS / "1" / "model.xml"

# examples/ holds scripts and is no package.
sys.path.insert(0, str(EXAMPLES))

# First, as it keeps OpenVINO's telemetry out.
import train_digits  # noqa: E402  # isort: skip
import openvino as ov  # noqa: E402

F32 = {"INFERENCE_PRECISION_HINT": "f32"}
REQUESTS = [("seven", [7]), ("three-and-eight", [3, 8])]


@pytest.fixture(scope="module")
def split() -> train_digits.Split:
    return train_digits.split_digits()


@pytest.fixture(scope="module")
def compiled() -> Any:
    return ov.Core().compile_model(MODEL, "CPU", F32)


def instances_of(name: str) -> Any:
    return np.array(json.loads((DIGITS / f"{name}.json").read_text())["instances"], np.float32)


# A server leaves the precision to OpenVINO, which takes bf16 where the CPU has it.
@pytest.mark.parametrize("properties", [F32, {}], ids=["f32", "default precision"])
def test_the_model_is_right_about_images_it_has_not_seen(split: train_digits.Split, properties: dict[str, str]) -> None:
    results = ov.Core().compile_model(MODEL, "CPU", properties)(split.held_out_images.astype(np.float32))
    assert np.mean(results["digit"] == split.held_out_digits) >= 0.97


def test_no_held_out_image_is_trained_on(split: train_digits.Split) -> None:
    trained = {image.tobytes() for image in split.train_images}
    assert len(split.held_out_images) == 450
    assert not any(image.tobytes() in trained for image in split.held_out_images)


def test_the_signature_is_the_promised_one() -> None:
    model = ov.Core().read_model(MODEL)
    described = [
        (port.names, port.element_type.get_type_name(), str(port.partial_shape))
        for port in [*model.inputs, *model.outputs]
    ]
    assert model.friendly_name == "digits"
    assert described == [
        ({"image"}, "f32", "[?,8,8]"),
        ({"digit"}, "i64", "[?]"),
        ({"probabilities"}, "f32", "[?,10]"),
    ]


@pytest.mark.parametrize("size", [0, 1, 3])
def test_an_image_gets_the_same_answer_in_a_batch_of_any_size(
    split: train_digits.Split, compiled: Any, size: int
) -> None:
    images = split.held_out_images.astype(np.float32)
    everything, batch = compiled(images), compiled(images[:size])
    assert batch["digit"].tolist() == everything["digit"][:size].tolist()
    np.testing.assert_allclose(batch["probabilities"], everything["probabilities"][:size], atol=1e-5)


def test_the_digit_is_the_most_probable_one(split: train_digits.Split, compiled: Any) -> None:
    results = compiled(split.held_out_images.astype(np.float32))
    np.testing.assert_allclose(results["probabilities"].sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(results["digit"], results["probabilities"].argmax(axis=1))


@pytest.mark.parametrize(("name", "digits"), REQUESTS)
def test_a_request_holds_held_out_images_of_its_digits(split: train_digits.Split, name: str, digits: list[int]) -> None:
    held_out = dict(zip(map(np.ndarray.tobytes, split.held_out_images), split.held_out_digits, strict=True))
    assert [held_out[image.astype(np.float64).tobytes()] for image in instances_of(name)] == digits


@pytest.mark.parametrize(("name", "digits"), REQUESTS)
def test_the_model_is_sure_of_the_digits_of_a_request(compiled: Any, name: str, digits: list[int]) -> None:
    results = compiled(instances_of(name))
    assert results["digit"].tolist() == digits
    assert results["probabilities"].max(axis=1).min() > 0.999


@pytest.mark.parametrize(("name", "digits"), REQUESTS)
def test_a_request_has_a_line_for_each_row_of_pixels(name: str, digits: list[int]) -> None:
    lines = [line.strip(" [],") for line in (DIGITS / f"{name}.json").read_text().splitlines()]
    rows = [[int(value) for value in line.split(",")] for line in lines[1:-1]]
    assert rows == instances_of(name).reshape(len(digits) * 8, 8).tolist()


@pytest.mark.parametrize(("name", "digits"), REQUESTS)
def test_a_picture_shows_its_request_in_dark_ink_on_white(name: str, digits: list[int]) -> None:
    with Image.open(DIGITS / f"{name}.png") as picture:
        assert (picture.mode, picture.size) == ("L", (160 * len(digits), 160))
        pixels = np.asarray(picture)
    squares = pixels.reshape(8, 20, 8 * len(digits), 20)
    assert (squares == squares[:, :1, :, :1]).all()
    ink = np.round((255 - squares[:, 0, :, 0].astype(float)) * 16 / 255)
    np.testing.assert_array_equal(ink, np.hstack(list(instances_of(name))))


def test_the_script_makes_what_is_committed(tmp_path: Path) -> None:
    home, output = tmp_path / "home", tmp_path / "digits"
    home.mkdir()
    command = [sys.executable, str(EXAMPLES / "train_digits.py"), str(output)]
    done = subprocess.run(command, env=os.environ | {"HOME": str(home)}, capture_output=True, text=True, check=True)
    for name in ("1/model.bin", "seven.json", "three-and-eight.json"):
        assert (output / name).read_bytes() == (DIGITS / name).read_bytes()
    assert without_version(output / "1" / "model.xml") == without_version(MODEL)
    assert f"    {done.stdout}" in (DIGITS / "README.md").read_text()
    # OpenVINO's telemetry would have left a client id here.
    assert list(home.iterdir()) == []


def without_version(path: Path) -> list[str]:
    """The lines of an IR, less the one that names the OpenVINO that wrote it."""
    lines = path.read_text().splitlines()
    kept = [line for line in lines if '<info name="OpenVINO Runtime"' not in line]
    assert len(kept) == len(lines) - 1
    return kept


def test_the_script_fails_if_the_model_is_not_good_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_digits.main([str(tmp_path), "--want", "1"]) == 1
    assert capsys.readouterr().err == "too low: want 100.0%\n"
