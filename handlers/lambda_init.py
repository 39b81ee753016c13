"""What a Lambda function does in its init phase, which has a whole core whatever the function's memory buys.

Everything is built then, and models are loaded as far as Lambda has the patience for it; what is not loaded by then is
by the request that needs it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from handlers.build import build_server, import_engine
from handlers.configuration import models_of
from handlers.haste import in_haste
from handlers.settings import Settings
from model_cache.errors import ModelCacheError
from model_cache.timeline import span, timeline
from runtime.server import ModelServer

if TYPE_CHECKING:
    from handlers.lambda_function import Function

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

    def __init__(self, server: ModelServer, names: Sequence[str]) -> None:
        self._server = server
        self._names = names
        self._errors: list[Exception] = []
        # Not to be waited for at the end of the process.
        self._thread = threading.Thread(target=self._load, name="init", daemon=True)
        self._thread.start()

    def wait(self, seconds: float | None) -> Sequence[Exception]:
        """Wait until all are loaded or have failed, but no longer than that; return why those failed that did."""
        self._thread.join(seconds)
        return list(self._errors)

    def _load(self) -> None:
        for name in self._names:
            try:
                self._server.start(name)
            except ModelCacheError as exc:
                logger.warning("%s is not loaded in the init phase: %s", name, exc)
                self._errors.append(exc)
            # It would end the thread, and nobody would know that there is no model.
            except Exception as exc:
                logger.exception("loading %s in the init phase failed", name)
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
            models = models_of(settings)
            server = build_server(settings, models)
        # Of several, nobody knows which one the first request is for.
        names = [model.name for model in models] if kind in EAGER or len(models) == 1 else []
        preload = Preload(server, names)
        function = _function(settings, server)
    # In haste no more: with many models or recorded requests this may take minutes, in which there is garbage.
    errors = preload.wait(None if kind in EAGER else max(0.0, began + patience - time.monotonic()))
    if kind == _SNAP_START:
        from handlers.snapshot import Snapshot

        if errors:
            raise errors[0]
        Snapshot(server, settings.storage_options).register()
    timeline.ready()
    return function


def _function(settings: Settings, server: ModelServer) -> Function:
    """Import what the first request needs, while its model is under way."""
    # First, as it can compile then, which needs no Python, while the rest is imported.
    import_engine()
    with span("imports.front"):
        from handlers.lambda_function import Function
        from runtime.contract import Contract

    timeout = settings.rest_api_timeout_in_ms / 1000
    has_cors = settings.rest_api_enable_cors_support
    return Function(Contract(server, max_body=settings.max_body_size, timeout=timeout, has_cors=has_cors))
