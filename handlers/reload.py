"""Replacing the models of a running server: by a client's word, or as a file changes.

Either way nothing changes unless all of it can: what is new is opened, and as far as it must be loaded, before it takes
the place of what was there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from handlers.build import open_repository
from handlers.configuration import ModelConfig, from_message, parse, read
from handlers.settings import Settings, SettingsError
from model_cache.errors import CacheFull, LoadPending, ModelCacheError
from model_cache.repository import ModelRepository, ServableId
from runtime.errors import DeadlineExceeded, InferenceError, InvalidRequest, Overloaded, PreconditionFailed
from runtime.server import ModelServer
from runtime.status import public_message

logger = logging.getLogger(__name__)

LOADS = 4
"""Models that are loaded at once: their downloads overlap, while compiling one model keeps all cores busy."""
_MAX_NAMES = 1000


class Reload:
    """Thread-safe. Replacements happen one after the other.

    Args:
        server: whose models are replaced.
        settings: what holds for all models.
        models: that the server has.
        told: what the file that is watched said when a client had them replaced; None if that is what they are.
    """

    def __init__(
        self,
        server: ModelServer,
        settings: Settings,
        models: Iterable[ModelConfig],
        told: Sequence[ModelConfig] | None = None,
    ) -> None:
        self._server = server
        self._settings = settings
        # Held for the whole of a replacement, its loads included, so that each begins with what the one before it has
        # left. Guards the next three.
        self._lock = threading.Lock()
        # What the server has.
        self._models = {model.name: model for model in models}
        # The new ones of the last replacement if that came to nothing: a first listing may still be under way.
        self._tried: dict[str, tuple[ModelConfig, ModelRepository]] = {}
        self._told: Sequence[ModelConfig] = list(self._models.values() if told is None else told)

    @property
    def told(self) -> Sequence[ModelConfig]:
        """What the file that is watched said when it was last used, or passed over for what a client has said since."""
        return self._told

    def __call__(
        self,
        message: Any,
        deadline: float | None = None,
        agree: Callable[[], None] | None = None,
        told: Sequence[ModelConfig] | None = None,
    ) -> None:
        """Serve what a ModelServerConfig says and nothing else, once what is new in it has been loaded.

        A model is new if its name or its base path is. If one cannot be loaded within the time that a request has for
        that, all stays as it was.

        Args:
            message: the ModelServerConfig.
            deadline: in seconds of the monotonic clock, when nobody waits any longer.
            agree: called once all is loaded and before anything is replaced; if it raises, all stays as it was.
            told: what the file that is watched says where the client has said this, if that is another worker: all
                are to take the same for news.

        Raises:
            InvalidRequest: it describes what cannot be.
            PreconditionFailed: a label is for a version that is not available.
            DeadlineExceeded: it has passed.
            ModelCacheError: why a model cannot be loaded.
        """
        try:
            self._replace(from_message(message), is_awaited=True, deadline=deadline, agree=agree, told=told)
        except SettingsError as exc:
            raise InvalidRequest(str(exc)) from exc
        except (LoadPending, CacheFull, Overloaded) as exc:
            if deadline is None or time.monotonic() < deadline:
                raise
            raise DeadlineExceeded(f"the deadline passed, and the models stay as they are: {exc}") from exc

    def use(self, models: Sequence[ModelConfig]) -> None:
        """Serve these models of the file and no others from now on, and load what is new behind.

        What a client has had replaced meanwhile stays, unless the file says something new. A label that moves waits
        for its version to be loaded, and all else with it. A model whose base path changes goes on as it was until the
        new one is loaded; one that cannot be loaded does not keep others from changing.

        Raises:
            SettingsError, PreconditionFailed, ModelCacheError: why all stays as it was.
        """
        changed = self._replace(models, is_awaited=False, told=models)
        if changed:
            threading.Thread(target=self._load_behind, args=(changed,), daemon=True).start()

    def watch(self, path: str, seconds: float, stopped: threading.Event) -> None:
        """Look at a file every so many seconds, and use what it says whenever that has changed, until stopped.

        What cannot be used is one line in the log. What was wrong with the file itself is not tried again.
        """
        # What was in the file, which models those are unless it made no sense, and what was wrong.
        seen: bytes | None = None
        used: Sequence[ModelConfig] | None = None
        complaint: tuple[bytes | None, type[Exception]] | None = None
        while not stopped.wait(seconds):
            content: bytes | None = None
            try:
                content = read(path, self._settings.storage_options())
                # As one of several, this may have been told since that it is news.
                if content == seen and used in (None, self._told):
                    continue
                models = parse(path, content)
                self.use(models)
                seen, used, complaint = content, models, None
            except (SettingsError, ModelCacheError, InferenceError) as exc:
                if isinstance(exc, SettingsError):
                    seen, used = content, None
                # Not by its text, in which a store may have the number of each request.
                if (content, type(exc)) != complaint:
                    logger.error("the models stay as they are: %s", exc)
                complaint = (content, type(exc))
            # Nobody waits for this thread, and the next change may be good.
            except Exception:
                logger.exception("cannot use %s", path)

    def _replace(
        self,
        models: Sequence[ModelConfig],
        *,
        is_awaited: bool,
        deadline: float | None = None,
        agree: Callable[[], None] | None = None,
        told: Sequence[ModelConfig] | None = None,
    ) -> list[str]:
        """Replace the models; return the names of those that may have to be loaded."""
        now = time.monotonic()
        until = now + self._settings.load_timeout
        until = until if deadline is None else min(until, deadline)
        if not self._lock.acquire(timeout=max(0.0, until - now)):
            raise Overloaded("the models are being replaced by somebody else; try again later")
        try:
            if not is_awaited and told == self._told:
                return []
            before = self._server.repositories
            repositories = {model.name: self._repository(model, before) for model in models}
            new = [model.name for model in models if self._is_new(model)]
            self._tried = {model.name: (model, repositories[model.name]) for model in models if model.name in new}
            self._bring(models, repositories, new if is_awaited else (), until)
            if agree is not None:
                self._ask(agree)
            labels = {model.name: model.labels for model in models}
            self._server.configure(repositories, labels, afresh=new if is_awaited else ())
            self._models = {model.name: model for model in models}
            self._tried = {}
            self._told = self._told if told is None else told
        finally:
            self._lock.release()
        logger.info("%d models are served now: %s", len(repositories), ", ".join(repositories)[:_MAX_NAMES])
        return [name for name in repositories if repositories[name] is not before.get(name)]

    def _repository(self, model: ModelConfig, before: Mapping[str, ModelRepository]) -> ModelRepository:
        if self._is_new(model):
            return self._never_listed(model) or open_repository(model, self._settings)
        repository = before[model.name]
        return repository if model.policy == self._models[model.name].policy else repository.with_terms(model.policy)

    def _never_listed(self, model: ModelConfig) -> ModelRepository | None:
        """Return the model's repository of the last try, if that has not lived to see its first listing."""
        if model.name not in self._tried:
            return None
        tried, repository = self._tried[model.name]
        is_same = (tried.base_path, tried.policy) == (model.base_path, model.policy)
        return repository if is_same and repository.known is None else None

    def _is_new(self, model: ModelConfig) -> bool:
        before = self._models.get(model.name)
        return before is None or before.base_path != model.base_path

    def _bring(
        self,
        models: Sequence[ModelConfig],
        repositories: Mapping[str, ModelRepository],
        awaited: Collection[str],
        deadline: float,
    ) -> None:
        """Load what must be there before the models are replaced."""
        loads: list[Callable[[], object]] = [
            partial(self._server.preload, repositories[name], None, deadline) for name in awaited
        ]
        for model in models:
            # Labels of a model that is not awaited apply when their versions come, as at a start.
            if model.name in awaited or not self._is_new(model):
                loads += [
                    partial(self._check_label, repositories[model.name], version, deadline)
                    for version in self._to_check(model)
                ]
        try:
            _do_all(loads)
        # The load goes on, for who tries again.
        except LoadPending:
            raise
        except BaseException:
            self._server.sweep()
            raise

    def _ask(self, agree: Callable[[], None]) -> None:
        try:
            agree()
        except BaseException:
            self._server.sweep()
            raise

    def _to_check(self, model: ModelConfig) -> set[int]:
        """Return the versions that get a label which they have not had."""
        before = {} if self._is_new(model) else self._models[model.name].labels
        allows_new = self._settings.allow_version_labels_for_unavailable_models
        return {
            version
            for label, version in model.labels.items()
            # As in TensorFlow Serving, what is allowed for new labels is not for those that move: clients use them.
            if before.get(label) != version and (label in before or not allows_new)
        }

    def _check_label(self, repository: ModelRepository, version: int, deadline: float) -> None:
        try:
            self._server.preload(repository, version, deadline)
        # These pass; whoever tries again may have more luck.
        except (LoadPending, CacheFull):
            raise
        except ModelCacheError as exc:
            raise PreconditionFailed(
                f"Request to assign label to version {version} of model {repository.name}, which is not currently "
                f"available for inference: {public_message(exc)}"
            ) from exc

    def _load_behind(self, names: Sequence[str]) -> None:
        for name, outcome in zip(names, start_all(self._server, names), strict=True):
            if isinstance(outcome, ModelCacheError):
                logger.error("%s is not loaded: %s", name, outcome)


def start_all(server: ModelServer, names: Sequence[str]) -> Iterator[ServableId | ModelCacheError]:
    """Load each model, some at once, and yield which version serves or why none does, in the order of the names."""

    def start(name: str) -> ServableId | ModelCacheError:
        try:
            return server.start(name)
        except ModelCacheError as exc:
            return exc

    with ThreadPoolExecutor(LOADS, thread_name_prefix="start") as pool:
        yield from pool.map(start, names)


def _do_all(calls: Sequence[Callable[[], object]]) -> None:
    """Make the calls, some at once; raise the first error once all have ended."""
    with ThreadPoolExecutor(LOADS, thread_name_prefix="reload") as pool:
        for future in [pool.submit(call) for call in calls]:
            future.result()
