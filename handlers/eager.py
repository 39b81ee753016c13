"""Which models are loaded before anybody asks for them, and loading them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from handlers.configuration import Configuration, ModelConfig
from handlers.settings import Settings, SettingsError
from model_cache.errors import ModelCacheError
from model_cache.repository import ServableId

LOADS = 4
"""Models that are loaded at once: their downloads overlap, while compiling one model keeps all cores busy."""


class Start(Protocol):
    """`ModelServer.start` or `ModelServer.renew`."""

    def __call__(self, name: str, *, every: bool) -> ServableId: ...


def eager(models: Sequence[ModelConfig], settings: Settings, *, is_lazy: bool = False) -> list[ModelConfig]:
    """Return the models that are to be loaded ahead.

    Args:
        models: all there are.
        settings: what holds for all of them.
        is_lazy: whether the others are those of which nobody has said anything.
    """
    usual = is_lazy if settings.lazy is None else settings.lazy

    def is_eager(model: ModelConfig) -> bool:
        return model.name in settings.preload or not (usual if model.is_lazy is None else model.is_lazy)

    return [model for model in models if is_eager(model)]


def require_preloaded(settings: Settings, configuration: Configuration) -> None:
    """
    Raises:
        SettingsError: what is to be preloaded is no model.
    """
    names = {model.name for model in configuration.models}
    for name in settings.preload:
        if name not in names and name not in configuration.rejected:
            raise SettingsError(f"preload names {name!r}, which is no model; want some of {', '.join(sorted(names))}")


def start_all(start: Start, models: Sequence[ModelConfig]) -> Iterator[ServableId | ModelCacheError]:
    """Load each model, some at once, and yield which version serves or why none does, in the order of the models.

    Of a model that has a policy that is all the versions which it offers.
    """
    # Here, as a function with one model does without.
    from concurrent.futures import ThreadPoolExecutor

    def load(model: ModelConfig) -> ServableId | ModelCacheError:
        try:
            return start(model.name, every=model.policy is not None)
        except ModelCacheError as exc:
            return exc

    with ThreadPoolExecutor(LOADS, thread_name_prefix="start") as pool:
        yield from pool.map(load, models)
