"""Models that keep state from one request to the next, and which servables that makes of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from model_cache.cache import Loader
from model_cache.errors import LoadFailed
from model_cache.repository import ModelVersion
from runtime.options import ModelOptions, options_of
from runtime.servable import Servable

if TYPE_CHECKING:
    from runtime.sequence_cleaner import SequenceCleaner
    from runtime.stateful_servable import Advancing

CLEANER_INTERVAL = 300.0
"""OpenVINO Model Server's ``sequence_cleaner_poll_wait_minutes``, in seconds."""


class StatefulLoader:
    """Puts sequences around each servable that ``inner`` loads, if its version is to be stateful.

    What warms up comes before: of a model as ``inner`` loads it, every request begins with the initial state.
    """

    def __init__(
        self,
        inner: Loader[ModelVersion, Servable],
        interval: float = CLEANER_INTERVAL,
        processes: int = 1,
        *,
        on_drop: Callable[[], object] = lambda: None,
    ) -> None:
        """
        Args:
            interval: seconds between two looks for idle sequences; 0 for none.
            processes: how many answer requests, each with its own sequences.
            on_drop: called when idle sequences have been dropped: their models may not be kept any more.
        """
        self._on_drop = on_drop
        self._inner = inner
        self._interval = interval
        self._processes = processes
        # Guards the cleaner: of all models there is one.
        self._lock = threading.Lock()
        self._cleaner: SequenceCleaner | None = None

    def estimate(self, version: ModelVersion) -> int:
        return self._inner.estimate(version)

    def load(self, version: ModelVersion) -> Servable:
        """
        Raises:
            LoadFailed: the version cannot be stateful; or as the inner loader.
        """
        options = options_of(version.options)
        if options.stateful is None:
            return self._inner.load(version)
        self._check(version, options)
        # With the first stateful model, as most processes have none.
        from runtime.stateful_servable import StatefulServable

        # As the engine has made it: what others put around theirs is not for stateful models.
        servable = cast("Advancing", self._inner.load(version))
        try:
            return StatefulServable(str(version), servable, options.stateful, self._the_cleaner())
        except BaseException:
            servable.close()
            raise

    def _the_cleaner(self) -> SequenceCleaner:
        from runtime.sequence_cleaner import SequenceCleaner

        with self._lock:
            if self._cleaner is None:
                self._cleaner = SequenceCleaner(self._interval, on_drop=self._on_drop)
            return self._cleaner

    def _check(self, version: ModelVersion, options: ModelOptions) -> None:
        if options.is_auto:
            raise LoadFailed("Dynamic shape and dynamic batch size are not supported for stateful models")
        if options.device != "CPU":
            raise LoadFailed(f"target_device of {version} is {options.device}; want CPU for a stateful model")
        if self._processes > 1:
            raise LoadFailed(
                f"{version} is stateful and workers is {self._processes}; want workers 1, as a sequence's state is in "
                "one process"
            )
