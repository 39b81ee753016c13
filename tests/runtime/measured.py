"""What tests measure of a process's memory, each function in a process of its own: see `tests.alone`."""

from __future__ import annotations

import ctypes
import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np

from runtime.memory import Meter, Resident, keep_little, resident, trim
from runtime.signature import DEFAULT_SIGNATURE
from tests.runtime import models

MIB = 1 << 20


def now() -> Resident:
    found = resident()
    assert found is not None
    return found


def an_array(size: int) -> tuple[Resident, Resident]:
    """Return what the process has before and after so many bytes are written."""
    before = now()
    array = np.ones(size, np.uint8)
    after = now()
    assert array.nbytes == size
    return before, after


def trimming() -> int:
    """Return the bytes that trimming gives back of 32 MiB that have been freed, but for their end."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    # Of a size that glibc takes from its heap, which it shortens by itself only at the end.
    size = 64 << 10
    blocks = [libc.malloc(size) for _ in range(512)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks[:-1]:
        libc.free(block)
    before = now().own
    trim()
    after = now().own
    libc.free(blocks[-1])
    return before - after


def changes(size: int) -> tuple[int | None, int | None, int | None]:
    """Return what a `Meter` says of so many bytes that come, that go, and that come and go."""
    meter = Meter()
    with meter.change() as coming:
        array = np.ones(size, np.uint8)
    with meter.change() as going:
        del array
    with meter.change() as both:
        np.ones(size, np.uint8)
    return coming.growth, going.growth, both.growth


class Load(NamedTuple):
    """Bytes."""

    grown: int
    left: int
    """Of what the process has grown by, once the servable is closed."""
    size: int
    """The servable's."""
    files: int
    log: list[str]


def a_load(base: Path) -> Load:
    """Load version 1 of the model there, run it and close it."""
    log: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: log.append(record.getMessage())  # type: ignore[method-assign]
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    version = models.version_at(base)
    loader = models.loader(models.files_at(base))
    trim()
    before = now().own
    servable = models.load_by(loader, version)
    trim()
    grown = now().own - before
    servable.predict(DEFAULT_SIGNATURE, {"x": np.ones((1, 2048), np.float32)})
    servable.close()
    trim()
    return Load(grown, now().own - before, servable.size, version.size, log)


def strings(base: Path, count: int) -> int:
    """Return the bytes that so many empty strings leave behind, of the model of version 1 there."""
    keep_little()
    x = np.full(count, b"", object)
    with models.loaded(base) as servable:
        servable.predict(DEFAULT_SIGNATURE, {"x": x[:1]})
        trim()
        before = now().own
        assert servable.predict(DEFAULT_SIGNATURE, {"x": x})["y"].shape == x.shape
        return now().own - before
