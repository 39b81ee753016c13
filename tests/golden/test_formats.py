"""Each format that OpenVINO reads, as its package ships it: the answers are OpenVINO's own, over both fronts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.golden import direct, real
from tests.golden.asking import Ask, assert_same, both_fronts, over_grpc
from tests.golden.direct import Arrays
from tests.golden.pictures import normal, page, planes
from tests.golden.serving import serving
from tests.servers.decant import Decant

PITCHES = ("pitch", "pitch_onnx", "pitch_tflite")


def inputs_of(name: str) -> Arrays:
    """Return inputs that the model makes something of, each row another, so that none can be taken for another."""
    noise = np.random.default_rng(7)
    if name == "text_detector":
        return {"x": planes(normal(page("Wine", 64, 96)))}
    if name in ("text_recogniser", "text_angle"):
        return {"x": _floats(noise, (2, 3, 48, 64))}
    if name == "magika":
        # Bytes, or 256 where there is none.
        return {"bytes": noise.integers(0, 257, (2, 2048), np.int32)}
    if name == "voice":
        return {"input": _floats(noise, (1, 576)), "state": _floats(noise, (2, 1, 128))}
    if name == "face":
        return {"input": _floats(noise, (1, 128, 128, 3))}
    return {"input_2" if name == "pitch" else "serving_default_input_2:0": _floats(noise, (1, 43844, 1))}


def _floats(noise: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return noise.uniform(-1, 1, shape).astype(np.float32)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decant]:
    directory = tmp_path_factory.mktemp("formats")
    models = {name: {"base_path": str(real.place(name, directory / name))} for name in real.NAMES}
    with serving(directory, models) as running:
        yield running


@both_fronts
@pytest.mark.parametrize("name", real.NAMES)
def test_a_real_model_answers_as_openvino_does(server: Decant, name: str, ask: Ask) -> None:
    inputs = inputs_of(name)
    assert_same(ask(server, name, inputs), direct.infer(real.readable(name), inputs))


def test_a_model_is_the_same_in_three_formats(server: Decant) -> None:
    answers = [over_grpc(server, name, inputs_of(name)) for name in PITCHES]
    # Of the names that they are exported with only those of the SavedModel mean anything.
    contours, *others = ([x for x in answer.values() if x.shape == (1, 172, 264)] for answer in answers)
    for other in others:
        np.testing.assert_allclose(other, contours, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", real.NAMES)
def test_metadata_tells_what_a_model_takes(server: Decant, name: str) -> None:
    reply = server.get(f"/v1/models/{name}/metadata")
    signature = reply.body["metadata"]["signature_def"]["signature_def"]["serving_default"]
    for input_name, x in inputs_of(name).items():
        told = signature["inputs"][input_name]
        sizes = [int(dim["size"]) for dim in told["tensor_shape"]["dim"]]
        assert told["dtype"] == {"float32": "DT_FLOAT", "int32": "DT_INT32"}[x.dtype.name]
        assert len(sizes) == x.ndim
        assert all(size in (-1, given) for size, given in zip(sizes, x.shape, strict=True))
