"""What reading a body takes of a process that does nothing else: memory that was used before would be used again.

Each is forked from one process that has imported the readers, which takes longer than most of them do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from runtime.codecs import json_exact
from runtime.codecs.json_examples import parse_examples
from runtime.codecs.json_tensor import parse_predict
from runtime.codecs.open_inference import infer_json, infer_json_exact
from runtime.errors import InvalidRequest
from runtime.signature import TensorSpec
from tests.runtime.codecs.peak import kibibytes

# The readers that others import when they need them.
_PRELOADED = (json_exact, infer_json_exact)
_FORKS = get_context("forkserver")
_FORKS.set_forkserver_preload([__name__])
_PATIENCE = 50.0


class Cost(NamedTuple):
    memory: int
    """Bytes above what the process has with the body alone."""
    seconds: float
    """Of a processor's time."""


def of_predict(path: Path, wanted: Mapping[str, TensorSpec]) -> Cost:
    """Read a predict request, or one of examples if no tensors are wanted."""
    return _cost(path, lambda body: parse_predict(body).inputs(wanted) if wanted else parse_examples(body))


def of_infer(path: Path) -> Cost:
    """Read an inference request, whose last bracket is JSON's."""

    def read(body: bytes) -> Any:
        size = len(body) if body.endswith(b"}") else max(body.rfind(b"}") + 1, 1)
        return [one.read(None) for one in infer_json.parse(body, size).inputs]

    return _cost(path, read)


def in_own_process(measure: Callable[..., Cost], *given: Any) -> Cost:
    with ProcessPoolExecutor(1, mp_context=_FORKS) as process:
        return process.submit(measure, *given).result(_PATIENCE)


def _cost(path: Path, read: Callable[[bytes], Any]) -> Cost:
    # From a file, as what comes through a pipe is there twice for a while.
    body = path.read_bytes()
    before, began = kibibytes("VmHWM"), time.process_time()
    try:
        # Kept until it has been looked.
        result: Any = read(body)
    except InvalidRequest as exc:
        result = exc
    seconds, peak = time.process_time() - began, kibibytes("VmHWM")
    del result
    return Cost((peak - before) * 1024, seconds)
