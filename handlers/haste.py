"""A start in haste: without what makes it longer and is of no use to it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SWITCH_INTERVAL = 0.0005


@contextmanager
def in_haste() -> Iterator[None]:
    # Nothing that is imported is garbage, and Python would look through it seventy times. Nor need it look later.
    gc.disable()
    # Threads that come back from the disk, the network or a compilation would each time wait 5 ms for one that imports.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_INTERVAL)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        gc.freeze()
        gc.enable()
