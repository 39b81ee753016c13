"""Whether what a request brings is what a signature wants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from runtime.codecs.dtypes import tf_name
from runtime.errors import InvalidRequest
from runtime.signature import Dtype, TensorSpec


class Shaped(Protocol):
    """A tensor as far as a signature is concerned: an array, or the head of a message that will become one."""

    @property
    def dtype(self) -> Dtype: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


def check_inputs(specs: Mapping[str, TensorSpec], given: Mapping[str, Shaped]) -> None:
    """Raise InvalidRequest, with what was given and what is wanted, unless the tensors fit the specs."""
    if given.keys() != specs.keys():
        extra, missing = sorted(given.keys() - specs.keys()), sorted(specs.keys() - given.keys())
        raise InvalidRequest(
            f"input size does not match signature: {len(given)}!={len(specs)} len({_names(given)}) != "
            f"len({_names(specs)}). Sent extra: {_names(extra)}. Missing but required: {_names(missing)}."
        )
    for name, spec in specs.items():
        tensor = given[name]
        if tensor.dtype != spec.dtype:
            raise InvalidRequest(f"input '{name}' has dtype {tf_name(tensor.dtype)}; want {tf_name(spec.dtype)}")
        spec.require(tensor.shape)


def _names(names: Iterable[str]) -> str:
    # Names come from outside, any number of any length.
    text = ",".join(sorted(names))
    return f"{{{text[:256]}...}}" if len(text) > 256 else f"{{{text}}}"
