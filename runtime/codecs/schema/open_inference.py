"""The Open Inference Protocol's messages, as classes made from the compiled schema, in a pool of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runtime.codecs.schema import message_class, pool_of

PACKAGE = "inference"
COMPILED = Path(__file__).with_name("open_inference.binpb")

_POOL = pool_of([COMPILED.read_bytes()])


def __getattr__(name: str) -> Any:
    """Return the message class of that name, made when it is first asked for."""
    globals()[name] = message = message_class(_POOL, f"{PACKAGE}.{name}")
    return message
