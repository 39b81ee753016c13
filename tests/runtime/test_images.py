"""Encoded images for inputs of numbers: which inputs take them, what becomes of them, and OpenVINO Model Server's words
for what cannot be."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import image_limits as limits
from runtime.errors import DeadlineExceeded, InvalidRequest
from runtime.images import decode_images, encoded
from runtime.signature import TensorSpec
from tests.runtime.image_samples import by_opencv, picture

_WITHOUT_MEMORY = """
import resource
import numpy as np
import PIL.PngImagePlugin, runtime.image_files, runtime.image_sizes
from runtime.errors import Overloaded
from runtime.images import decode_images
from runtime.signature import TensorSpec
from tests.runtime.image_samples import by_opencv
deep = np.array(by_opencv(".png", np.zeros((4096, 4096, 4), np.uint16)), object)
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (100 << 20),) * 2)
try:
    decode_images({"x": TensorSpec("x", np.dtype(np.float32), (1, 1, 1, 4))}, {"x": deep})
except Overloaded as exc:
    print(f"Overloaded: {exc}")
"""
U8, F32 = np.dtype(np.uint8), np.dtype(np.float32)
RGB = by_opencv(".png", picture(3, height=20, width=30))
SMALL = by_opencv(".png", picture(3, height=10, width=12))
GREY = by_opencv(".png", picture(1, height=20, width=30))


def spec(
    shape: tuple[int, ...] | None = (1, 20, 30, 3),
    dtype: Any = U8,
    layout: str = "NHWC",
    bounds: tuple[tuple[int, int], ...] | None = None,
) -> TensorSpec:
    return TensorSpec("x", np.dtype(dtype), shape, layout, bounds)


def files(*data: bytes) -> NDArray[Any]:
    array = np.empty(len(data), object)
    array[:] = data
    return array


def decode(wanted: TensorSpec, *data: bytes) -> NDArray[Any]:
    return decode_images({"x": wanted}, {"x": files(*data)})["x"]


def by_cv2(data: bytes, dtype: Any = np.uint8, size: tuple[int, int] | None = None) -> NDArray[Any]:
    """What the model server does, with what it does it with."""
    image = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)).astype(dtype)
    image = np.asarray(cv2.resize(image, size[::-1])) if size else image
    return image.reshape(*image.shape[:2], -1)


def test_a_batch_of_images_is_decoded() -> None:
    batch = decode(spec((2, 20, 30, 3)), RGB, RGB)
    assert batch.dtype == np.uint8
    np.testing.assert_array_equal(batch, np.stack([by_cv2(RGB)] * 2))


def test_one_image_alone_is_a_batch_of_one() -> None:
    alone = np.array(RGB, object)
    np.testing.assert_array_equal(decode_images({"x": spec()}, {"x": alone})["x"], by_cv2(RGB)[None])


@pytest.mark.parametrize("batch", [2, -1])
def test_images_are_resized_to_the_models_size(batch: int) -> None:
    decoded = decode(spec((batch, 15, 17, 3)), RGB, SMALL)
    wanted = np.stack([by_cv2(RGB, size=(15, 17)), by_cv2(SMALL, size=(15, 17))])
    np.testing.assert_array_equal(decoded, wanted)


def test_precision_is_the_models() -> None:
    decoded = decode(spec((1, 15, 17, 3), F32), RGB)
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded[0], by_cv2(RGB, np.float32, (15, 17)), rtol=0, atol=0.02)
    deep = by_opencv(".png", picture(3, np.uint16, 20, 30))
    np.testing.assert_array_equal(decode(spec(dtype=np.uint16), deep)[0], by_cv2(deep, np.uint16))
    assert decode(spec(dtype=np.int8), RGB).max() == 127


# Of a range, the nearest to the first image, whatever the others have.
@pytest.mark.parametrize(
    ("height", "width", "wanted"),
    [((10, 40), (10, 40), (20, 30)), ((30, 40), (1, 25), (30, 25)), ((5, 15), (31, 31), (15, 31))],
)
def test_within_ranges_the_first_image_says_the_size(
    height: tuple[int, int], width: tuple[int, int], wanted: tuple[int, int]
) -> None:
    bounds = ((1, 2), height, width, (3, 3))
    shape = tuple(least if least == most else -1 for least, most in bounds)
    decoded = decode(spec(shape, bounds=bounds), RGB, SMALL)
    np.testing.assert_array_equal(decoded, np.stack([by_cv2(RGB, size=wanted), by_cv2(SMALL, size=wanted)]))


@pytest.mark.parametrize("shape", [(-1, 15, 17, 3), (-1, -1, -1, -1)])
def test_of_an_automatic_size_are_any_number_of_images_as_large_as_in_the_file(shape: tuple[int, ...]) -> None:
    wanted = spec(shape)._replace(stored_shape=(1, 15, 17, 3))
    np.testing.assert_array_equal(decode(wanted, RGB, SMALL)[0], by_cv2(RGB, size=(15, 17)))
    assert decode(wanted, *[SMALL] * 3).shape == (3, 15, 17, 3)
    with pytest.raises(InvalidRequest, match="has 1; want 3"):
        decode(wanted, GREY)


@pytest.mark.parametrize("shape", [(-1, -1, -1, 3), (2, -1, -1, -1), (-1, 20, -1, 3)])
def test_of_an_open_size_all_images_are_as_the_first(shape: tuple[int, ...]) -> None:
    np.testing.assert_array_equal(decode(spec(shape), RGB, RGB), np.stack([by_cv2(RGB)] * 2))
    with pytest.raises(
        InvalidRequest,
        match="Binary input images for this endpoint are required to have the same resolution: image 1 of input 'x' is "
        "12 x 10; want 30 x 20, as image 0",
    ):
        decode(spec(shape), RGB, SMALL)


def test_without_resizing_a_wrong_size_is_left_for_the_model_to_refuse() -> None:
    wanted = spec((1, 21, -1, 3))
    assert not wanted.admits(decode(wanted, RGB).shape)


@pytest.mark.parametrize(
    ("shape", "data", "text"),
    [
        ((1, 20, 30, 3), [GREY], "image 0 of input 'x' has 1; want 3"),
        ((2, 20, 30, 3), [RGB, GREY], "image 1 of input 'x' has 1; want 3"),
        ((2, 20, 30, -1), [RGB, GREY], "image 1 of input 'x' has 1; want 3"),
        ((1, 3, 20, 30), [RGB], "image 0 of input 'x' has 3; want 30"),
    ],
)
def test_channels_are_the_models_or_those_of_the_first(shape: tuple[int, ...], data: list[bytes], text: str) -> None:
    with pytest.raises(InvalidRequest, match=f"Invalid number of channels in binary input: {text}"):
        decode(spec(shape, layout=""), *data)


def test_open_channels_are_the_first_images() -> None:
    assert decode(spec((-1, 20, 30, -1)), GREY, GREY).shape == (2, 20, 30, 1)
    bounds = ((1, 1), (20, 20), (30, 30), (1, 3))
    assert decode(spec((1, 20, 30, -1), bounds=bounds), GREY).shape == (1, 20, 30, 1)
    with pytest.raises(InvalidRequest, match="has 4; want 1 to 3"):
        decode(spec((1, 20, 30, -1), bounds=bounds), by_opencv(".png", picture(4, height=20, width=30)))


@pytest.mark.parametrize("layout", ["NHWC", "", "N...", "...", "N...C", "N?WC", "????", "N...HWC"])
def test_layouts_that_may_be_nhwc_take_images(layout: str) -> None:
    assert decode(spec(layout=layout), RGB).shape == (1, 20, 30, 3)


@pytest.mark.parametrize("layout", ["NCHW", "N...HW", "CHWN", "NC...", "NWHC", "HWC", "NHWCD"])
def test_other_layouts_do_not(layout: str) -> None:
    with pytest.raises(
        InvalidRequest, match="Received binary image input but resource not configured to accept NHWC layout"
    ):
        decode(spec(layout=layout), RGB)


@pytest.mark.parametrize("shape", [(20, 30, 3), (1, 1, 20, 30, 3), None])
def test_an_input_of_another_rank_takes_no_images(shape: tuple[int, ...] | None) -> None:
    assert not spec(shape, layout="").takes_images
    with pytest.raises(InvalidRequest, match="input 'x' has encoded images; want DT_UINT8 of shape"):
        decode(spec(shape, layout=""), RGB)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.uint32, np.bool_])
def test_some_precisions_are_no_images(dtype: Any) -> None:
    with pytest.raises(InvalidRequest, match="Invalid input precision: input 'x' is DT_"):
        decode(spec(dtype=dtype), RGB)


def test_strings_for_a_model_of_strings_are_left_alone() -> None:
    wanted = spec((-1, -1, -1, -1), object, "")
    inputs = {"x": files(RGB)}
    assert not wanted.takes_images
    assert encoded({"x": wanted}, inputs) == []
    assert decode_images({"x": wanted}, inputs) is inputs


def test_other_inputs_are_left_alone() -> None:
    y = np.ones(3, np.float32)
    specs = {"x": spec(), "y": TensorSpec("y", F32, (3,))}
    decoded = decode_images(specs, {"y": y, "x": files(RGB)})
    assert decoded["y"] is y
    assert decoded["x"].shape == (1, 20, 30, 3)


@pytest.mark.parametrize(
    ("shape", "data", "text"),
    [
        ((-1, 20, 30, 3), files(), "String val is empty: input 'x' has 0 images"),
        ((-1, 20, 30, 3), files(RGB, b""), "String val is empty: input 'x'"),
        ((1, 20, 30, 3), files(RGB, RGB), "Invalid input batch size: input 'x' has 2 images; want 1"),
        ((-1, 20, 30, 3), files(RGB).reshape(1, 1), r"Invalid input shape: input 'x' has images of shape \(1, 1\)"),
        ((-1, 20, 30, 3), files(b"no"), "Image parsing failed: image 0 of input 'x': it is none of JPEG"),
        ((-1, 20, 30, 3), files(RGB, RGB[:200]), "Image parsing failed: image 1 of input 'x': image file is truncated"),
    ],
)
def test_what_is_wrong_is_said(shape: tuple[int, ...], data: NDArray[Any], text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        decode_images({"x": spec(shape)}, {"x": data})


def test_what_a_reader_says_is_cut() -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(spec(), b"BM" + b"\xff" * 60)
    assert len(str(caught.value)) < 250


def test_a_request_has_so_many_images() -> None:
    specs = {"x": spec((-1, 20, 30, 3)), "y": spec((-1, 20, 30, 3))._replace(name="y")}
    half = limits.MAX_IMAGES // 2
    with pytest.raises(InvalidRequest, match=f"the request has {2 * half + 1} encoded images; want at most {2 * half}"):
        decode_images(specs, {"x": files(*[b"x"] * half), "y": files(*[b"x"] * (half + 1))})


def test_a_request_has_so_many_pixels() -> None:
    # Of one level, 8 MiB of which are 8 KB; as many as may be are decoded, and no more.
    large = by_opencv(".png", np.zeros((1 << 12, 1 << 12), np.uint8))
    began = limits.MAX_PIXELS >> 24
    with pytest.raises(InvalidRequest, match=f"images have more than {limits.MAX_PIXELS} pixels together"):
        decode(spec((-1, 1, 1, 1)), *[large] * (began + 1))


def test_a_request_becomes_so_many_bytes() -> None:
    # A few dozen bytes each, and as floats of this size 3 MiB.
    with pytest.raises(InvalidRequest, match=f"images would take more than {limits.MAX_BYTES} bytes"):
        decode(spec((-1, 512, 512, 3), F32), *[SMALL] * 171)


def test_images_are_decoded_until_the_deadline() -> None:
    inputs = {"x": files(RGB)}
    assert decode_images({"x": spec()}, inputs, time.monotonic() + 60)["x"].shape == (1, 20, 30, 3)
    with pytest.raises(DeadlineExceeded, match="while its images were decoded"):
        decode_images({"x": spec()}, inputs, time.monotonic())


def test_a_lack_of_memory_is_not_the_files_fault() -> None:
    wanted = subprocess.run(
        [sys.executable, "-c", _WITHOUT_MEMORY], capture_output=True, check=True, timeout=30, text=True
    )
    assert wanted.stdout == "Overloaded: there is no memory now for image 0 of input 'x'\n"
    assert wanted.stderr.startswith("no memory for image 0 of input 'x': ")
