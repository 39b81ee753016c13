"""Encoded images: what a model makes of them is what OpenVINO makes of what OpenCV decodes and resizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.golden import direct, real
from tests.golden.asking import assert_same, b64, by_name, call, with_images
from tests.golden.direct import Arrays
from tests.golden.pictures import decoded, encoded, page, photo, planes
from tests.golden.serving import EXACTLY, serving
from tests.servers.decant import Decant, decant_serve

# With numbers up to 255 the text detector would be a matter of the last bit.
NORMAL = {"mean": 127.5, "scale": 63.75}
MEAN, SCALE = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])


def batch_of(images: Sequence[bytes], width: int, height: int) -> NDArray[np.float32]:
    """What OpenVINO Model Server hands to a model: BGR, not scaled, bilinearly resized, NHWC."""
    return np.stack([cv2.resize(decoded(image).astype(np.float32), (width, height)) for image in images])


def detected(images: NDArray[Any], mean: Any = NORMAL["mean"], scale: Any = NORMAL["scale"]) -> Arrays:
    normal = ((images - mean) / scale).astype(np.float32)
    return direct.infer(real.source("text_detector"), {"x": planes(normal)})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decant]:
    directory = tmp_path_factory.mktemp("images")
    pages = str(real.place("text_detector", directory / "pages"))
    models: dict[str, dict[str, Any]] = {
        "face": {"base_path": str(real.place("face", directory / "face"))},
        "pair": {"base_path": pages, "layout": {"x": "NHWC:NCHW"}, "shape": "(2,64,96,3)", **NORMAL},
        "page": {"base_path": pages, "layout": "NHWC:NCHW", **NORMAL},
        "ranged": {"base_path": pages, "layout": "NHWC:NCHW", "shape": "(1,64:128,128,3)", **NORMAL},
        "planes": {"base_path": pages, "layout": "NCHW"},
    }
    with serving(directory, models) as running:
        yield running


def ask_every_way(server: Decant, model: str, name: str, images: Sequence[bytes]) -> Iterator[Arrays]:
    """Ask in rows and columns, named and not, and by gRPC; in rows an answer is a list of rows."""
    values = [b64(image) for image in images]
    bodies: list[dict[str, Any]] = [
        {"instances": values},
        {"instances": [{name: value} for value in values]},
        {"inputs": {name: values}},
        {"inputs": values},
    ]
    for body in bodies:
        reply = server.post(f"/v1/models/{model}:predict", body)
        assert reply.status == 200, reply.body
        yield by_name(reply.body["outputs"]) if "inputs" in body else stacked(reply.body["predictions"])
    yield call(server, with_images(model, name, images))


def stacked(rows: list[Any]) -> Arrays:
    if isinstance(rows[0], dict):
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return {"": np.array(rows)}


@pytest.mark.parametrize("image", [photo("china"), photo("flower", 300, 200, ".png")], ids=["jpeg", "png"])
def test_a_photo_is_decoded_and_resized_as_opencv_does(server: Decant, image: bytes) -> None:
    want = direct.infer(real.source("face"), {"input": batch_of([image], 128, 128)})
    for outputs in ask_every_way(server, "face", "input", [image]):
        # Values of up to 255 go into a model for up to 1: what comes out is in the hundreds.
        assert outputs.keys() == {"regressors", "classificators"}
        for name, array in outputs.items():
            np.testing.assert_allclose(array, want[name], rtol=1e-3, atol=1e-3 * float(np.abs(want[name]).max()))


def test_a_batch_of_pictures_of_different_sizes_is_resized_for_a_transposed_model(server: Decant) -> None:
    images = [encoded(page("Wine", 90, 130), ".bmp"), encoded(page("Song", 40, 60), ".webp")]
    want = detected(batch_of(images, 96, 64))
    one, other = want["fetch_name_0"]
    assert np.abs(one - other).max() > 0.5
    for outputs in ask_every_way(server, "pair", "x", images):
        assert_same(outputs, want)


def test_a_photo_is_as_large_as_it_is_where_the_model_has_no_size(server: Decant) -> None:
    image = photo("china", 96, 64)
    want = detected(batch_of([image], 96, 64))
    for outputs in ask_every_way(server, "page", "x", [image]):
        assert_same(outputs, want)


@pytest.mark.parametrize(("height", "wanted"), [(40, 64), (96, 96), (200, 128)])
def test_a_picture_is_brought_into_the_range_that_the_model_takes(server: Decant, height: int, wanted: int) -> None:
    image = encoded(page("Wine", height, 128))
    want = detected(batch_of([image], 128, wanted))
    assert_same(call(server, with_images("ranged", "x", [image])), want)


GREY = encoded(np.full((64, 96), 7, np.uint8), ".png")
BOMB_SIDE = 40_000


def bomb() -> bytes:
    """A PNG of 1.6 billion pixels, as far as its header; there is next to nothing behind it."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", BOMB_SIDE, BOMB_SIDE, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 16))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


REFUSED = [
    ("planes", [photo("china", 96, 64)], "not configured to accept NHWC layout"),
    ("page", [GREY], "Invalid number of channels in binary input"),
    ("page", [photo("china", 96, 64), photo("flower", 64, 64)], "are required to have the same resolution"),
    ("page", [b"\xff\xd8\xff\xe0 no more of a JPEG than this"], "Image parsing failed"),
    ("page", [photo("china")[:2000]], "Image parsing failed"),
    ("page", [b"no image at all"], "Image parsing failed"),
    ("page", [bomb()], "pixels"),
    ("page", [b""], "String val is empty"),
]


@pytest.mark.parametrize(("model", "images", "text"), REFUSED)
def test_what_cannot_be_taken_for_an_image_is_the_clients_mistake(
    server: Decant, model: str, images: list[bytes], text: str
) -> None:
    reply = server.post(f"/v1/models/{model}:predict", {"instances": [b64(image) for image in images]})
    assert reply.status == 400
    assert text in reply.body["error"]
    with pytest.raises(grpc.RpcError) as refusal:
        call(server, with_images(model, "x", images))
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert text in str(refusal.value.details())


def test_colours_precision_mean_and_scale_of_flags_are_part_of_the_model(tmp_path: Path) -> None:
    model = real.place("text_detector", tmp_path / "page")
    steps = ["--mean", str(MEAN.tolist()), "--scale", str(SCALE.tolist()), "--color_format", "BGR:RGB"]
    steps += ["--precision", "uint8:fp32", "--layout", "NHWC:NCHW", "--shape", "(1,64,96,3)"]
    image = encoded(page("Wine", 64, 96))
    with decant_serve(tmp_path, "--model_name", "page", "--model_path", model, *EXACTLY, *steps) as server:
        outputs = call(server, with_images("page", "x", [image]))
    rgb = decoded(image)[np.newaxis, :, :, ::-1]
    assert_same(outputs, detected(rgb, MEAN, SCALE))
    assert outputs["fetch_name_0"].max() > 0.5
