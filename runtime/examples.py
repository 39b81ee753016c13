"""Classify and regress: inference over tf.Example, for models whose signature allows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from runtime.servable import Servable

Example = Mapping[str, NDArray[Any]]
"""tensorflow.Example: features by name, each of rank 1 and float32, int64 or bytes (dtype object)."""


class ScoredLabel(NamedTuple):
    label: str
    """Empty if the model has none."""
    score: float


def classify(
    servable: Servable, signature_name: str, examples: Sequence[Example], deadline: float | None = None
) -> list[list[ScoredLabel]]:
    raise NotImplementedError


def regress(
    servable: Servable, signature_name: str, examples: Sequence[Example], deadline: float | None = None
) -> list[float]:
    raise NotImplementedError
