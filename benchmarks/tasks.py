"""The models that are measured, a request to each, and whether an answer to it is right.

Nothing counts before it has been checked: an answer must be OpenVINO's, called directly in f32, within a tolerance
that the answer to another input does not meet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov

from benchmarks.make_resnet50 import IMAGE_SHAPE, write_resnet50
from runtime.codecs import schema, tensor_proto

DIGITS = Path(__file__).parent.parent / "examples" / "digits"

TOLERANCE = 0.01
"""Of the range of the right answer. OpenVINO computes in bf16 by default where the CPU can, which moves the
answers of ResNet-50 by 0.2 %."""

Array = npt.NDArray[np.float32]


class BenchmarkFailed(Exception):
    """A contender ended, or gave a wrong answer: there is nothing to measure."""


@dataclass(frozen=True, slots=True)
class Task:
    """A model in storage, a request to it, and the right answer to that request."""

    model: str
    disk: Path
    """The base directory; version 1 is ``1/model.xml`` and ``1/model.bin``."""
    image: Array
    """One example, with its batch dimension, for the input called ``image``."""
    output: str
    answer: Array

    @property
    def xml(self) -> Path:
        return self.disk / "1" / "model.xml"

    def request(self) -> bytes:
        """TensorFlow Serving's row format; the naive handlers take it, too."""
        # f32 printed as f64 would be twenty digits of noise per number.
        return json.dumps({"instances": np.round(self.image.astype(np.float64), 4).tolist()}).encode()

    def message(self) -> bytes:
        """A serialized ``tensorflow.serving.PredictRequest`` with its tensor as raw bytes."""
        request = schema.PredictRequest()
        request.model_spec.name = self.model
        tensor_proto.encode(self.image, request.inputs["image"], tensor_content_from=1)
        serialized: bytes = request.SerializeToString()
        return serialized

    def is_right(self, values: Any) -> bool:
        given = np.asarray(values, dtype=np.float32).reshape(self.answer.shape)
        return bool(np.abs(given - self.answer).max() <= TOLERANCE * np.ptp(self.answer))

    def check(self, who: str, answer: bytes) -> None:
        """Raise BenchmarkFailed unless this JSON has the right answer."""
        self.check_values(who, _values(json.loads(answer), self.output), answer)

    def check_message(self, who: str, answer: bytes) -> None:
        """Raise BenchmarkFailed unless this ``PredictResponse`` has the right answer."""
        outputs = schema.PredictResponse.FromString(answer).outputs
        self.check_values(who, tensor_proto.decode(self.output, outputs[self.output]), answer)

    def check_values(self, who: str, values: Any, answer: bytes) -> None:
        """Raise BenchmarkFailed, with the beginning of the answer, unless these numbers in it are right."""
        if not self.is_right(values):
            raise BenchmarkFailed(f"{who} gave a wrong answer for {self.model}: {answer[:500]!r}")


def digits(directory: Path) -> Task:
    image = np.array(json.loads((DIGITS / "seven.json").read_bytes())["instances"], dtype=np.float32)
    return _with_answer("digits", DIGITS, image, "probabilities")


def resnet50(directory: Path) -> Task:
    """Make the model, and an image of coarse patches: to random weights, plain noise all looks alike."""
    write_resnet50(directory)
    random = np.random.default_rng(1)
    patches = random.random((IMAGE_SHAPE[0], 7, 7)).repeat(32, axis=1).repeat(32, axis=2)
    image = np.round(patches + 0.1 * random.random(IMAGE_SHAPE), 4)[np.newaxis]
    return _with_answer("resnet50", directory, image.astype(np.float32), "logits")


TASKS: Mapping[str, Callable[[Path], Task]] = {"digits": digits, "resnet50": resnet50}


def _with_answer(model: str, base: Path, image: Array, output: str) -> Task:
    """Ask OpenVINO, and make sure that the check refuses the answer to the negative."""
    compiled = ov.Core().compile_model(base / "1" / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    task = Task(model, base, image, output, compiled(image)[output].copy())
    if not np.isfinite(task.answer).all() or task.is_right(compiled(image.max() - image)[output]):
        raise BenchmarkFailed(f"{model}: the reference answer does not depend on the input")
    return task


def _values(answer: Any, output: str) -> Any:
    """Find an output in the bare script's object, or in a row (Decant), column (naive) or V2 (MLServer) response."""
    rows = answer.get("predictions")
    if rows is not None:
        return [row[output] if isinstance(row, dict) else row for row in rows]
    outputs = answer.get("outputs", answer)
    if isinstance(outputs, list):
        return next(tensor["data"] for tensor in outputs if tensor["name"] == output)
    return outputs[output]
