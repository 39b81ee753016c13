"""Which of a version's files is the model: of the formats in OpenVINO Model Server's order, the first that is there."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from model_cache.errors import LoadFailed
from model_cache.repository import ModelVersion

_SHOWN = 10
_WEIGHTS = {".xml": ".bin", ".pdmodel": ".pdiparams", ".json": ".pdiparams"}
_WANTED = "one .xml with its .bin, .onnx, .pdmodel or .json with its .pdiparams, saved_model.pb, frozen .pb or .tflite"


def model_file(version: ModelVersion, directory: Path) -> Path:
    """Return what OpenVINO is to read: a file, or of a SavedModel its directory.

    Raises:
        LoadFailed: none of the files is a model, or more than one of the format that counts, or its weights are no
            file.
        OSError: the directory cannot be read.
    """
    names = {path.name for path in directory.iterdir()}
    for what, find in _FORMATS:
        found = sorted(find(names))
        if len(found) > 1:
            raise LoadFailed(f"{version} has {len(found)} {what} files; want one: {', '.join(found[:_SHOWN])}")
        if found:
            return _with_weights(version, directory / found[0])
    shown = ", ".join(sorted(names)[:_SHOWN]) or "nothing"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    # The beginning is OpenVINO Model Server's.
    raise LoadFailed(f"File not found or cannot open: no model in {version}: want {_WANTED}; found {shown}{more}")


def _with_weights(version: ModelVersion, path: Path) -> Path:
    weights = path.with_suffix(_WEIGHTS.get(path.suffix, path.suffix))
    # OpenVINO would open a pipe, and wait for who writes to it.
    if weights.exists() and not (weights.is_file() or weights.is_dir()):
        raise LoadFailed(f"{weights.name} of {version} is no file")
    return path


def _ending(suffix: str) -> Callable[[Collection[str]], list[str]]:
    return lambda names: [name for name in names if name.endswith(suffix)]


def _paddle_3(names: Collection[str]) -> list[str]:
    models = (name.removesuffix(".pdiparams") + ".json" for name in names if name.endswith(".pdiparams"))
    return [name for name in models if name in names]


def _saved_model(names: Collection[str]) -> list[str]:
    return ["."] if "saved_model.pb" in names else []


_FORMATS: tuple[tuple[str, Callable[[Collection[str]], list[str]]], ...] = (
    (".xml", _ending(".xml")),
    (".onnx", _ending(".onnx")),
    (".pdmodel", _ending(".pdmodel")),
    ("Paddle .json", _paddle_3),
    ("saved_model.pb", _saved_model),
    (".pb", _ending(".pb")),
    (".tflite", _ending(".tflite")),
)
