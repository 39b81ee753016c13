"""What a Lambda function does in its init phase, which has a whole core whatever the function's memory buys.

Everything is built then, and models are loaded as far as Lambda has the patience for it; what is not loaded by then is
by the request that needs it.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from handlers.build import build_server, import_engine
from handlers.configuration import Configuration, ModelConfig, models_of
from handlers.eager import eager, require_preloaded
from handlers.haste import in_haste
from handlers.settings import Settings
from model_cache.errors import ModelCacheError
from model_cache.timeline import span, timeline
from runtime.server import ModelServer

if TYPE_CHECKING:
    from handlers.lambda_function import Function
    from handlers.lambda_invocations import Invocations
    from handlers.reload import Reload

logger = logging.getLogger(__name__)
timeline.arrived("imports.function")

INIT_PATIENCE = 7.0
"""Seconds that the init phase waits for a model. Lambda ends it after ten, some of which are gone when we are called,
and begins it again."""
_SNAP_START = "snap-start"
EAGER = (_SNAP_START, "provisioned-concurrency")
"""Ways of starting for which nobody waits, and which Lambda gives minutes."""


class Preload:
    """Loads models, one after the other, in a thread: much of the time that it takes is the network's."""

    def __init__(self, server: ModelServer, models: Sequence[ModelConfig], is_patient: bool) -> None:
        """
        Args:
            is_patient: whether there is time for all versions that a policy names, not just for the one that serves.
        """
        self._server = server
        self._models = models
        self._is_patient = is_patient
        self._errors: list[Exception] = []
        # Not to be waited for at the end of the process.
        self._thread = threading.Thread(target=self._load, name="init", daemon=True)
        self._thread.start()

    def wait(self, seconds: float | None) -> Sequence[Exception]:
        """Wait until all are loaded or have failed, but no longer than that; return why those failed that did."""
        self._thread.join(seconds)
        return list(self._errors)

    def _load(self) -> None:
        for model in self._models:
            try:
                self._server.start(model.name, every=self._is_patient and model.policy is not None)
            except ModelCacheError as exc:
                logger.warning("%s is not loaded in the init phase: %s", model.name, exc)
                self._errors.append(exc)
            # It would end the thread, and nobody would know that there is no model.
            except Exception as exc:
                logger.exception("loading %s in the init phase failed", model.name)
                self._errors.append(exc)


def start(settings: Settings, kind: str, patience: float = INIT_PATIENCE) -> Function:
    """Build what answers events.

    Args:
        settings: what to serve.
        kind: how Lambda starts the environment, as in AWS_LAMBDA_INITIALIZATION_TYPE.
        patience: seconds to wait for a model, where the request that has caused the start waits for this.

    Raises:
        SettingsError: there is nothing to serve.
        ModelCacheError: a model cannot be loaded, and a snapshot without it would be of no use.
    """
    began = time.monotonic()
    with in_haste():
        with span("configure"):
            configuration = models_of(settings)
            require_preloaded(settings, configuration)
            server = build_server(settings, configuration)
        # Of several, nobody knows which one the first request is for.
        is_lazy = kind not in EAGER and len(configuration.models) > 1
        models = eager(configuration.models, settings, is_lazy=is_lazy)
        preload = Preload(server, [model for model in models if model.name in server.repositories], kind in EAGER)
        function = _function(settings, server, configuration, is_lazy)
    # In haste no more: with many models or recorded requests this may take minutes, in which there is garbage.
    errors = preload.wait(None if kind in EAGER else max(0.0, began + patience - time.monotonic()))
    if kind == _SNAP_START:
        from handlers.snapshot import Snapshot

        if errors:
            raise errors[0]
        Snapshot(server, settings.storage_options).register()
    timeline.ready()
    return function


def _function(settings: Settings, server: ModelServer, configuration: Configuration, is_lazy: bool) -> Function:
    """Import what the first request needs, while its model is under way."""

    @functools.cache
    def reload() -> Reload:
        # Here, as few functions are asked for it.
        from handlers.reload import Reload

        return Reload(server, settings, configuration, is_lazy=is_lazy)

    def others() -> Invocations:
        from handlers.lambda_invocations import Invocations, Served

        served = Served(settings, server, lambda: reload().told, is_lazy, lambda: reload().refresh())
        return Invocations(served, made.infer)

    # First, as it can compile then, which needs no Python, while the rest is imported.
    import_engine()
    with span("imports.front"):
        from handlers.lambda_function import Function, Terms
        from runtime.contract import contract_of

    contract = contract_of(
        server,
        max_body=settings.max_body_size,
        timeout=settings.rest_api_timeout_in_ms / 1000,
        has_cors=settings.rest_api_enable_cors_support,
        reload=lambda: reload().refresh(),
    )
    terms = Terms(
        settings.lambda_deadline_margin,
        settings.lambda_gateway_timeout,
        settings.lambda_base_path.encode(),
        settings.lambda_error_statuses,
    )
    made = Function(contract, terms, others)
    return made
