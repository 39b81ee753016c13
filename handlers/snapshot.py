"""A process that is frozen once, and that any number of others go on from, hours or weeks later: Lambda's SnapStart.

Before that it lets go of whatever must not be shared or will be dead. After it nothing is relied on that depends on
time, on the network, on chance, or on the processor. https://docs.aws.amazon.com/lambda/latest/dg/snapstart-runtime-hooks-python.html
"""

from __future__ import annotations

import gc
import logging
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping

from snapshot_restore_py import register_after_restore, register_before_snapshot

from model_cache.storage import StorageOptions
from model_cache.timeline import span, timeline
from runtime.memory import trim
from runtime.server import ModelServer

logger = logging.getLogger(__name__)

_LOADER = "/lib64/ld-linux-x86-64.so.2"
_LOADER_TIMEOUT = 5.0
_FEATURE = re.compile(r"x86\.cpu_features\.(features\[\w+\]\.active\[\w+\])=(0x[0-9a-f]+)")
_ENTROPY = 64
_THREADS_TIMEOUT = 5.0

Features = Mapping[str, int]
"""What a processor can do: bits, by register."""


class ProcessorChanged(RuntimeError):
    """What is compiled here may not run here."""


def processor_features() -> Features:
    """Return what the processor can do; nothing where that cannot be asked for.

    It is asked in a process of its own, the dynamic loader's, which takes some milliseconds: OpenVINO and the operating
    system's kernel each ask once, and what they remember is part of the snapshot.
    """
    try:
        done = subprocess.run([_LOADER, "--list-diagnostics"], capture_output=True, timeout=_LOADER_TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError) as exc:
        # Another architecture, or glibc before 2.33.
        logger.debug("what the processor can do is not known: %s", exc)
        return {}
    return {name: int(bits, 16) for name, bits in _FEATURE.findall(done.stdout.decode(errors="replace"))}


def check_processor(before: Features, now: Features) -> None:
    """
    Raises:
        ProcessorChanged: something is missing now that was there before.
    """
    lost = {name: bits & ~now.get(name, 0) for name, bits in before.items()}
    missing = ", ".join(f"{name} {bits:#x}" for name, bits in lost.items() if bits)
    # Compiling anew would not help, as OpenVINO goes by what it has once found the processor to be.
    if now and missing:
        raise ProcessorChanged(f"the snapshot was made on a processor with features that this one lacks: {missing}")


class Snapshot:
    """Register its hooks, and whoever runs Lambda's runtime API calls them. What they raise ends the process."""

    def __init__(
        self,
        server: ModelServer,
        storage_options: Callable[[], StorageOptions],
        processor: Callable[[], Features] = processor_features,
    ) -> None:
        """
        Args:
            server: with everything loaded.
            storage_options: asked each time, as credentials change.
            processor: asked for what it can do, each time anew.
        """
        self._server = server
        self._storage_options = storage_options
        self._processor = processor
        self._features: Features = {}

    def register(self) -> None:
        register_before_snapshot(self.before)
        register_after_restore(self.after)

    def before(self) -> None:
        _wait_for_threads()
        self._server.reconnect(self._storage_options())
        self._features = self._processor()
        # Also what was frozen at the end of the start, as garbage, too, may have been among it.
        gc.unfreeze()
        gc.collect()
        # What is here now stays: the collector would only touch its pages, each of which would then be copied.
        gc.freeze()
        trim()

    def after(self) -> None:
        """
        Raises:
            ProcessorChanged: this one cannot do what the one could that the models were compiled on.
        """
        timeline.restart()
        with span("restore"):
            check_processor(self._features, self._processor())
            reseed()
            self._server.outdate()
            self._server.reconnect(self._storage_options())
        timeline.ready()


def _wait_for_threads() -> None:
    """Let end what is under way behind the answers: it would go on beside the first request after each restore."""
    deadline = time.monotonic() + _THREADS_TIMEOUT
    for thread in threading.enumerate():
        # Some never end, such as those that run batches; they wait for requests.
        if thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.monotonic()))


def reseed() -> None:
    """Have this process's random numbers differ from those of all others from the same snapshot."""
    random.seed()
    # Of libraries only those that are loaded: what is imported later begins with a seed of its own.
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed()
    if ssl := sys.modules.get("ssl"):
        # OpenSSL asks the system once in a while, and makes keys of what it has until then.
        ssl.RAND_add(os.urandom(_ENTROPY), _ENTROPY)
