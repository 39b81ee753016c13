"""Train the bundled digits model, measure it on images it has not seen, and write it as OpenVINO IR.

The network is one convolution and one linear layer. The filters are patches of training images, and the linear layer
is the solution of a linear system, so nothing is left to chance or to a learning rate: every run writes the same
bytes. Filters and weights are rounded (see ``_on_grid``), so that holds on another CPU too.

    python examples/train_digits.py [--want ACCURACY] [DIRECTORY]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

# `import openvino` also imports openvino.tools, a model converter that nothing here needs. It takes 0.1 s, starts
# telemetry and writes a client id under $HOME. None in sys.modules makes that import fail, which openvino allows for.
sys.modules.setdefault("openvino.tools", None)  # type: ignore[arg-type]

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
import openvino as ov  # noqa: E402
from openvino import opset13 as op  # noqa: E402
from PIL import Image  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from sklearn.model_selection import train_test_split  # noqa: E402

Array: TypeAlias = npt.NDArray[np.floating[Any]]
Digits: TypeAlias = npt.NDArray[np.int64]
Node: TypeAlias = Any
"""openvino.Node; OpenVINO ships no types."""

SEED = 0
HELD_OUT = 0.25

INK = 16
"""The darkest pixel value; 0 is paper."""

FILTERS = 48
FILTER_SIZE = 3
POOL = 2
FEATURES = FILTERS * (8 // POOL) ** 2

# These and the shape of the network were chosen by five-fold cross-validation on the training images. The held-out
# images had no say.
RIDGE = 2.0
SHARPNESS = 14.0
"""What scores are multiplied by before the softmax. They run from 0 to 1, so every answer would be doubtful."""

# Held-out images that show a person, too, what digit they are: not every one does at this size.
REQUESTS = {"seven": (378,), "three-and-eight": (286, 339)}
PNG_SCALE = 20


class Split(NamedTuple):
    """Images f64 [N,8,8] of whole numbers from 0 to 16, and their digits i64 [N]."""

    train_images: Array
    train_digits: Digits
    held_out_images: Array
    held_out_digits: Digits


class Network(NamedTuple):
    filters: Array
    """[FILTERS, 3, 3]"""
    weights: Array
    """[FEATURES, 10]"""
    bias: Array
    """[10]"""


def split_digits() -> Split:
    """The same split on every call: a quarter of each digit's images is held out."""
    data = load_digits()
    train_images, held_out_images, train_digits, held_out_digits = train_test_split(
        data.images, data.target, test_size=HELD_OUT, stratify=data.target, random_state=SEED
    )
    return Split(train_images, train_digits, held_out_images, held_out_digits)


def train(images: Array, digits: Digits) -> Network:
    filters = _choose_filters(images)
    features = _features(images, filters)
    # The bias is one more weight, of a feature that is always 1.
    features = np.hstack([features, np.ones((len(features), 1))])
    gram = features.T @ features + RIDGE * np.eye(FEATURES + 1)
    solution = np.linalg.solve(gram, features.T @ np.eye(10)[digits])
    weights = _on_grid(solution * SHARPNESS, 2**-12)
    return Network(filters, weights[:-1], weights[-1])


def build_model(network: Network) -> Any:
    """Return the ov.Model: ``image`` f32 [-1,8,8] in, ``digit`` i64 [-1] and ``probabilities`` f32 [-1,10] out."""
    image = op.parameter(ov.PartialShape([-1, 8, 8]), np.float32, name="image")
    image.output(0).set_names({"image"})
    x = op.reshape(image, _constant([-1, 1, 8, 8], "one_channel"), special_zero=False, name="channel")
    x = op.multiply(x, _constant(np.float32(1 / INK), "one_over_ink"), name="scale")
    filters = _constant(network.filters[:, None].astype(np.float32), "filters")
    x = op.convolution(x, filters, [1, 1], [1, 1], [1, 1], [1, 1], name="convolution")
    x = op.relu(x, name="relu")
    # MaxPool would do the same in one node, but refuses an empty batch.
    tiles = _constant([-1, FILTERS, *[8 // POOL, POOL] * 2], "tile_shape")
    x = op.reshape(x, tiles, special_zero=False, name="tiles")
    x = op.reduce_max(x, _constant([3, 5], "tile_axes"), False, name="pool")
    x = op.reshape(x, _constant([-1, FEATURES], "flat_shape"), special_zero=False, name="flat")
    x = op.matmul(x, _constant(network.weights.astype(np.float32), "weights"), False, False, name="linear")
    x = op.add(x, _constant(network.bias[None].astype(np.float32), "bias"), name="scores")
    probabilities = op.softmax(x, 1, name="probabilities")
    best = op.topk(probabilities, _constant(1, "one"), 1, "max", "value", index_element_type="i64", name="best")
    digit = op.squeeze(best.output(1), _constant([1], "best_axis"), name="digit")
    outputs = [_result(digit, "digit"), _result(probabilities, "probabilities")]
    return ov.Model(outputs, [image], "digits")


def write_model(model: Any, directory: Path) -> Path:
    """Write ``directory``/1/model.xml and model.bin and return the path of the former."""
    path = directory / "1" / "model.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    ov.save_model(model, path, compress_to_fp16=False)
    return path


def predict(path: Path, images: Array) -> tuple[Digits, Array]:
    """Return the digits and probabilities of the model as it is on disk, computed in f32 on any CPU."""
    compiled = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled(images.astype(np.float32))
    return results["digit"], results["probabilities"]


def write_requests(directory: Path, images: Array) -> None:
    """Write the bodies of predict requests, and pictures of them for a person to look at."""
    for name, chosen in REQUESTS.items():
        (directory / f"{name}.json").write_text(_to_json(images[list(chosen)]))
        _to_picture(images[list(chosen)]).save(directory / f"{name}.png")


def _choose_filters(images: Array) -> Array:
    """Patches of the training images, less their mean and scaled to length 1."""
    patches = _patches(images).reshape(-1, FILTER_SIZE, FILTER_SIZE)
    # A flat patch has no direction to look for.
    patches = patches[np.ptp(patches, axis=(1, 2)) >= INK / 2]
    # RandomState and not default_rng: numpy promises that its stream never changes.
    chosen = patches[np.random.RandomState(SEED).choice(len(patches), FILTERS, replace=False)]
    chosen = chosen - chosen.mean(axis=(1, 2), keepdims=True)
    return _on_grid(chosen / np.sqrt((chosen**2).sum(axis=(1, 2), keepdims=True)), 2**-8)


def _features(images: Array, filters: Array) -> Array:
    """What the IR computes up to and including ``flat``: [N,8,8] -> [N,FEATURES]."""
    responses = np.einsum("nyxij,kij->nkyx", _patches(images) / INK, filters)
    cells = 8 // POOL
    tiles = np.maximum(responses, 0).reshape(len(images), FILTERS, cells, POOL, cells, POOL)
    features: Array = tiles.max(axis=(3, 5)).reshape(len(images), FEATURES)
    return features


def _patches(images: Array) -> Array:
    """Return the surroundings of each pixel, [N,8,8,3,3]; what lies outside the image is paper."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    return np.lib.stride_tricks.sliding_window_view(padded, (FILTER_SIZE, FILTER_SIZE), axis=(1, 2))


def _on_grid(values: Array, step: float) -> Array:
    """Round to multiples of ``step``, a power of two and far coarser than what one CPU computes unlike another.

    With filters of multiples of 2**-8, features are multiples of 2**-12 and their products of 2**-24. Sums of those
    need no rounding in float64, so BLAS may take them in any order; only solving the system is inexact.
    """
    return np.round(values / step) * step


def _constant(value: object, name: str) -> Node:
    """A named constant: OpenVINO's own names count up per process, and would be written."""
    array = np.asarray(value)
    return op.constant(array.astype(np.int64) if array.dtype.kind == "i" else array, name=name)


def _result(node: Node, name: str) -> Node:
    node.output(0).set_names({name})
    return op.result(node, name=f"{name}/result")


def _to_json(images: Array) -> str:
    """A line for each row of pixels, so that the digit can be seen in the numbers."""
    return '{"instances": [\n' + ",\n".join(map(_rows, images)) + "\n]}\n"


def _rows(image: Array) -> str:
    rows = (", ".join(f"{int(value):2d}" for value in row) for row in image)
    return " [[" + "],\n  [".join(rows) + "]]"


def _to_picture(images: Array) -> Image.Image:
    """Dark ink on white, side by side, each pixel a square."""
    ink = np.hstack(list(images)) / INK
    grey = np.round(255 * (1 - ink)).astype(np.uint8)
    return Image.fromarray(grey.repeat(PNG_SCALE, axis=0).repeat(PNG_SCALE, axis=1))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train the bundled digits model.")
    parser.add_argument("directory", nargs="?", type=Path, default=Path(__file__).parent / "digits")
    parser.add_argument("--want", type=float, default=0.97, help="the held-out accuracy to fail below")
    options = parser.parse_args(arguments)
    split = split_digits()
    path = write_model(build_model(train(split.train_images, split.train_digits)), options.directory)
    write_requests(options.directory, split.held_out_images)
    digits, _ = predict(path, split.held_out_images)
    right = digits == split.held_out_digits
    summary = f"held-out accuracy {right.mean():.1%} ({right.sum()} of {len(right)} right)"
    print(f"trained on {len(split.train_digits)} images; {summary}")
    if right.mean() < options.want:
        print(f"too low: want {options.want:.1%}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
