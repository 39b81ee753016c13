"""Pictures that models see something in: a page with text, and scikit-learn's two photos."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import sklearn
from numpy.typing import NDArray

PHOTOS = Path(sklearn.__file__).parent / "datasets" / "images"
Pixels = NDArray[Any]


def page(text: str, height: int, width: int) -> NDArray[np.uint8]:
    """Return dark red text on light blue, BGR, so that no two channels are alike."""
    pixels = np.full((height, width, 3), (240, 220, 200), np.uint8)
    cv2.putText(pixels, text, (2, height * 2 // 3), cv2.FONT_HERSHEY_SIMPLEX, width / 100, (20, 40, 130), 2)
    return pixels


def normal(pixels: Pixels) -> NDArray[np.float32]:
    """Return one picture as a batch NHWC of numbers about 0, as most models want them."""
    batch: NDArray[np.float32] = (pixels[np.newaxis].astype(np.float32) - 127.5) / 63.75
    return batch


def planes(images: Pixels) -> Pixels:
    """Return images NHWC as NCHW."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


@cache
def photo(name: str, width: int = 0, height: int = 0, kind: str = ".png") -> bytes:
    """Return one of the photos: the JPEG of 640 by 427 that it is, or in that size and of that kind."""
    content = (PHOTOS / f"{name}.jpg").read_bytes()
    if not width:
        return content
    return encoded(cv2.resize(decoded(content), (width, height), interpolation=cv2.INTER_AREA), kind)


def encoded(pixels: Pixels, kind: str = ".png") -> bytes:
    is_done, content = cv2.imencode(kind, pixels)
    assert is_done
    return content.tobytes()


def decoded(content: bytes) -> Pixels:
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels
