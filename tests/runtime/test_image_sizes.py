"""Another size and precision: what comes out is what OpenCV's ``convertTo`` and ``resize`` make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.image_sizes import convert, resize

SIZES = [1, 2, 3, 5, 8, 13, 37, 64, 96, 130]
# Where it uses the processor's widest registers, or Intel's library, it rounds weights in ways of their own: integers
# differ by one, floats by less than this part of their range.
OPTIMIZED = 1e-4
DEPTHS = {
    "uint8": cv2.CV_8U,
    "int8": cv2.CV_8S,
    "uint16": cv2.CV_16U,
    "int16": cv2.CV_16S,
    "int32": cv2.CV_32S,
    "float32": cv2.CV_32F,
    "float64": cv2.CV_64F,
}


@pytest.fixture(params=[False, True], ids=["plain", "optimized"])
def is_optimized(request: pytest.FixtureRequest) -> Iterator[bool]:
    before = cv2.useOptimized()
    cv2.setUseOptimized(request.param)
    yield bool(request.param)
    cv2.setUseOptimized(before)


def noise(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> NDArray[Any]:
    random = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return (random.random(shape) * 255).astype(dtype)
    limits = np.iinfo(dtype)
    return random.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def by_cv2(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    return np.asarray(cv2.resize(image, (width, height))).reshape(height, width, image.shape[2])


def pairs() -> list[tuple[tuple[int, int], tuple[int, int]]]:
    random = np.random.default_rng(1)
    some = [tuple(random.choice(SIZES, 4).tolist()) for _ in range(150)]
    # Where each pixel is the mean of four, OpenCV does something else; and whole factors, both ways.
    special = [(2 * a, 2 * b, a, b) for a, b, _, _ in some[:20]]
    special += [(a, b, 2 * a, 2 * b) for a, b, _, _ in some[:5]] + [(3 * a, 3 * b, a, b) for a, b, _, _ in some[:5]]
    special += [(2 * a, b, a, c) for a, b, c, _ in some[:5]]
    return [((h, w), (height, width)) for h, w, height, width in (*some, *special)]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
def test_an_image_is_resized_as_opencv_does(dtype: Any, is_optimized: bool) -> None:
    for i, (size, want) in enumerate(pairs()):
        image = noise((*size, (1, 3, 4)[i % 3]), dtype, i)
        resized, wanted = resize(image, np.dtype(dtype), *want), by_cv2(image, *want)
        assert (resized.dtype, resized.shape) == (wanted.dtype, wanted.shape)
        if dtype == np.uint8 or (image.dtype.kind in "iu" and not is_optimized):
            np.testing.assert_array_equal(resized, wanted)
        elif image.dtype.kind in "iu":
            assert np.abs(resized.astype(int) - wanted.astype(int)).max() <= 1
        else:
            np.testing.assert_allclose(resized, wanted, rtol=0, atol=255 * (OPTIMIZED if is_optimized else 1e-7))


def test_a_large_image_is_made_in_parts_that_fit_together() -> None:
    image = noise((700, 1100, 3), np.uint8)
    np.testing.assert_array_equal(resize(image, np.dtype(np.uint8), 900, 1300), by_cv2(image, 900, 1300))


@pytest.mark.usefixtures("is_optimized")
@pytest.mark.parametrize("is_optimized", [False], indirect=True)
@pytest.mark.parametrize("dtype", [np.int8, np.int32])
def test_what_opencv_does_not_resize_is_resized_like_the_others(dtype: Any) -> None:
    image = noise((20, 30, 3), dtype)
    resized = resize(image, np.dtype(dtype), 50, 45)
    wanted = cv2.resize(image.astype(np.float64), (45, 50))
    assert resized.dtype == dtype
    np.testing.assert_allclose(resized, wanted, rtol=0, atol=0.51)


def test_half_precision_is_resized_in_single() -> None:
    image = noise((20, 30, 3), np.uint8)
    resized = resize(image, np.dtype(np.float16), 50, 45)
    wanted = resize(image, np.dtype(np.float32), 50, 45).astype(np.float16)
    np.testing.assert_array_equal(resized, wanted)


def test_precision_changes_before_the_size() -> None:
    image = noise((20, 30, 3), np.uint16)
    as_bytes = image.clip(0, 255).astype(np.uint8)
    np.testing.assert_array_equal(resize(image, np.dtype(np.uint8), 7, 9), by_cv2(as_bytes, 7, 9))
    floats = resize(as_bytes, np.dtype(np.float32), 7, 9)
    assert floats.dtype == np.float32
    assert (floats != floats.round()).any()


@pytest.mark.parametrize("given", ["uint8", "uint16", "int32", "float32"])
@pytest.mark.parametrize("want", DEPTHS)
def test_numbers_are_converted_as_opencv_does(given: str, want: str) -> None:
    limits = {"uint8": 255, "uint16": 65535, "int32": 2**31 - 1, "float32": 1e5}
    least = {"int32": -(2**31), "float32": -1e5}.get(given, 0)
    ramp = np.linspace(least, limits[given], 1001).astype(given)
    image = np.concatenate([ramp, np.array([0, 1, 127, 128, 255], given)]).reshape(1, -1, 1)
    if given == "float32":
        image = np.concatenate([image, np.array([[[0.5], [1.5], [2.5], [-0.5]]], np.float32)], 1)
    # Python has no convertTo; to add nothing is the same.
    wanted = np.asarray(cv2.add(image, np.zeros_like(image), dtype=DEPTHS[want])).reshape(image.shape)
    converted = convert(image, np.dtype(want))
    assert converted.dtype == wanted.dtype == np.dtype(want)
    np.testing.assert_array_equal(converted, wanted)


def test_what_is_no_number_becomes_the_least() -> None:
    image = np.array([[[np.nan], [np.inf], [-np.inf]]], np.float32)
    assert convert(image, np.dtype(np.int8)).ravel().tolist() == [-128, 127, -128]
