"""Write a ResNet-50 with seeded weights as OpenVINO IR: a model of ordinary size that needs no download.

The topology is v1.5 (the stride of a stage sits in its first 3x3 convolution). The weights are random, so
the answers mean nothing; but they are finite, they depend on the input, and every run writes the same bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset1 as op

SEED = 50
IMAGE_SHAPE = (3, 224, 224)
CLASSES = 1000

# (blocks, channels of the 3x3 convolution, stride of the first block) of each stage.
STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))
# A block gives this many times the channels of its 3x3 convolution.
EXPANSION = 4

# Each block adds its branch to its input, which at full He scale would double the variance block after block.
# The smaller gain stands for the last batch norm of a trained block.
BRANCH_GAIN = 0.5

Node = Any
"""openvino.Node; OpenVINO ships no types."""


def build_resnet50(seed: int = SEED) -> Any:
    """Return the ov.Model: input ``image`` f32 [-1,3,224,224], output ``logits`` f32 [-1,1000]."""
    layers = _Builder(seed)
    image = op.parameter(ov.PartialShape([-1, *IMAGE_SHAPE]), np.float32, name="image")
    image.output(0).set_names({"image"})
    x = op.relu(layers.convolution(image, 64, 7, 2, "stem"), name="stem/relu")
    x = op.max_pool(x, [2, 2], [1, 1], [1, 1], [3, 3], name="stem/pool")
    for number, (blocks, channels, stride) in enumerate(STAGES, 1):
        x = layers.bottleneck(x, channels, stride, f"stage{number}/block1", project=True)
        for block in range(2, blocks + 1):
            x = layers.bottleneck(x, channels, 1, f"stage{number}/block{block}", project=False)
    x = op.reduce_mean(x, op.constant(np.array([2, 3]), name="pool/axes"), False, name="pool")
    logits = layers.dense(x, 512 * EXPANSION, CLASSES, "logits")
    logits.output(0).set_names({"logits"})
    return ov.Model([op.result(logits, name="logits/result")], [image], "resnet50")


def write_resnet50(directory: Path) -> Path:
    """Write ``directory``/1/model.xml and model.bin (102 MB) and return the version's directory."""
    version = directory / "1"
    version.mkdir(parents=True, exist_ok=True)
    ov.save_model(build_resnet50(), version / "model.xml", compress_to_fp16=False)
    return version


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    version = write_resnet50(parser.parse_args().directory)
    for file in sorted(version.iterdir()):
        print(f"{file} {file.stat().st_size:,} bytes")


class _Builder:
    """Adds layers with seeded weights.

    Every node is given a name, because the names OpenVINO makes up count on through the process and would
    make the file depend on what was built before.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def convolution(self, x: Node, channels: int, kernel: int, stride: int, name: str, gain: float = 1) -> Node:
        """Add a convolution with its batch norm folded in: He-scaled weights and a small bias."""
        shape = (channels, x.get_output_partial_shape(0)[1].get_length(), kernel, kernel)
        pads = [kernel // 2] * 2
        weights = self._constant(shape, gain * np.sqrt(2 / np.prod(shape[1:])), f"{name}/weights")
        y = op.convolution(x, weights, [stride] * 2, pads, pads, [1, 1], name=name)
        return op.add(y, self._constant((1, channels, 1, 1), 0.01, f"{name}/bias"), name=f"{name}/add")

    def bottleneck(self, x: Node, channels: int, stride: int, name: str, project: bool) -> Node:
        """Add 1x1, 3x3 and 1x1 convolutions and their input, projected where its shape differs from theirs."""
        y = self._relu(self.convolution(x, channels, 1, 1, f"{name}/conv1"))
        y = self._relu(self.convolution(y, channels, 3, stride, f"{name}/conv2"))
        y = self.convolution(y, channels * EXPANSION, 1, 1, f"{name}/conv3", BRANCH_GAIN)
        if project:
            x = self.convolution(x, channels * EXPANSION, 1, stride, f"{name}/shortcut")
        return op.relu(op.add(y, x, name=f"{name}/add"), name=f"{name}/relu")

    def dense(self, x: Node, inputs: int, outputs: int, name: str) -> Node:
        weights = self._constant((outputs, inputs), np.sqrt(1 / inputs), f"{name}/weights")
        y = op.matmul(x, weights, False, True, name=name)
        return op.add(y, self._constant((1, outputs), 0.01, f"{name}/bias"), name=f"{name}/add")

    def _relu(self, x: Node) -> Node:
        return op.relu(x, name=f"{x.get_friendly_name()}/relu")

    def _constant(self, shape: tuple[int, ...], scale: float, name: str) -> Node:
        values = self._random.standard_normal(shape, dtype=np.float32) * np.float32(scale)
        return op.constant(values, name=name)


if __name__ == "__main__":
    main()
