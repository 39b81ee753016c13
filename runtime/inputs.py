"""Whether what a request brings is what a signature wants.

Texts, where TensorFlow Serving has one: ``servables/tensorflow/predict_util.cc`` and TensorFlow's executor.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from heapq import nsmallest
from typing import Protocol

from runtime.codecs.dtypes import tf_name
from runtime.errors import NAME, InvalidRequest, quoted
from runtime.signature import Dtype, TensorSpec

OF_MODEL = 1000
"""Bytes of the names that the model has."""


class Shaped(Protocol):
    """A tensor as far as a signature is concerned: an array, or the head of a message that will become one."""

    @property
    def dtype(self) -> Dtype: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


def check_inputs(specs: Mapping[str, TensorSpec], given: Mapping[str, Shaped]) -> None:
    """Raise InvalidRequest, with what was given and what is wanted, unless the tensors fit the specs."""
    check_names(specs, given)
    for i, (name, spec) in enumerate(specs.items()):
        tensor = given[name]
        if tensor.dtype != spec.dtype:
            want, got = tf_name(spec.dtype), tf_name(tensor.dtype)
            raise InvalidRequest(
                f"input '{name}' has dtype {got}; want {want}: Expects arg[{i}] to be {_short(want)} but {_short(got)} "
                "is provided"
            )
        spec.require(tensor.shape)


def check_names(specs: Mapping[str, TensorSpec], given: Collection[str]) -> None:
    """Raise InvalidRequest unless the names are those of the specs."""
    missing = [name for name in specs if name not in given]
    if not missing and len(given) == len(specs):
        return
    extra = (name for name in given if name not in specs)
    lacking = listed(missing, OF_MODEL)
    if len(given) != len(specs):
        raise InvalidRequest(
            f"input size does not match signature: {len(given)}!={len(specs)} len({listed(given)}) != "
            f"len({listed(specs, OF_MODEL)}). Sent extra: {listed(extra)}. Missing but required: {lacking}."
        )
    first = min(missing)
    raise InvalidRequest(
        f"Signature input alias: {first}(feed name: {specs[first].name}) not found in request and no default value "
        f"provided. Inputs expected to be in the request {listed(given)}, or default input alias set: "
        f"(sent extra: {listed(extra)}; missing but required: {lacking})"
    )


def _short(dtype: str) -> str:
    return dtype.removeprefix("DT_").lower()


def listed(names: Iterable[str], limit: int = NAME) -> str:
    """Return the first of them, as an error lists them: so many bytes at most."""
    # They may come from outside, any number of any length.
    return f"{{{quoted(','.join(nsmallest(limit, names)), limit)}}}"
