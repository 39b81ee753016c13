"""Replacing the models of a running server: by a client's word, or as a file changes.

Either way nothing changes unless all of it can: what is new is opened, and as far as it must be loaded, before it takes
the place of what was there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

from handlers.build import open_repository, why_rejected
from handlers.configuration import Configuration, ModelConfig, from_message, parse, read
from handlers.eager import LOADS, Start, eager, start_all
from handlers.settings import Settings, SettingsError
from model_cache.errors import CacheFull, LoadPending, ModelCacheError, StorageUnavailable
from model_cache.repository import ModelRepository, ServableId
from runtime.errors import (
    ConfigRejected,
    ConfigUnreadable,
    DeadlineExceeded,
    InferenceError,
    InvalidRequest,
    Overloaded,
    PreconditionFailed,
)
from runtime.server import ModelServer
from runtime.status import public_message

logger = logging.getLogger(__name__)

_MAX_NAMES = 1000
_LISTS = 8
"""Models that are listed at once: that is waiting for the network."""


class _Wanted(NamedTuple):
    """What a configuration comes to, beside what is served."""

    models: Mapping[str, ModelConfig]
    repositories: Mapping[str, ModelRepository]
    rejected: Mapping[str, str]


class Reload:
    """Thread-safe. Replacements happen one after the other.

    Args:
        server: whose models are replaced.
        settings: what holds for all models.
        configuration: what the server has.
        told: what the file that is watched said when a client had the models replaced; None if that is what they are.
        is_lazy: as `eager`.
    """

    def __init__(
        self,
        server: ModelServer,
        settings: Settings,
        configuration: Configuration,
        told: Configuration | None = None,
        *,
        is_lazy: bool = False,
    ) -> None:
        self._server = server
        self._settings = settings
        self._is_lazy = is_lazy
        # Held for the whole of a replacement, its loads included, so that each begins with what the one before it has
        # left. Guards the next four.
        self._lock = threading.Lock()
        # What the server has: of the file's models those that it could open.
        names = server.repositories.keys()
        self._models: Mapping[str, ModelConfig] = {
            model.name: model for model in configuration.models if model.name in names
        }
        self._rejected = configuration.rejected
        # The new ones of the last replacement if that came to nothing: a first listing may still be under way.
        self._tried: dict[str, tuple[ModelConfig, ModelRepository]] = {}
        self._told = configuration if told is None else told
        # Held for the whole of a refresh: each takes threads of its own, and lists all models.
        self._refreshing = threading.Lock()
        # Guards the next two, and is told when the second changes.
        self._loaded = threading.Condition()
        # What is to be loaded behind, and whether a thread does that: one at a time, however long a load takes.
        self._to_load: dict[str, ModelConfig] = {}
        self._is_loading = False

    @property
    def told(self) -> Configuration:
        """What the file that is watched said when it was last used, or passed over for what a client has said since."""
        return self._told

    def __call__(
        self,
        message: Any,
        deadline: float | None = None,
        agree: Callable[[], None] | None = None,
        told: Configuration | None = None,
    ) -> None:
        """Serve what a ModelServerConfig says and nothing else, once what is new in it has been loaded.

        A model is new if its name or its base path is; any other keeps its options, which a message cannot say. If one
        cannot be loaded within the time that a request has for that, all stays as it was.

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
            configuration = Configuration(from_message(message))
            self._replace(configuration, is_awaited=True, deadline=deadline, agree=agree, told=told)
        except SettingsError as exc:
            raise InvalidRequest(str(exc)) from exc
        except (LoadPending, CacheFull, Overloaded) as exc:
            if deadline is None or time.monotonic() < deadline:
                raise
            raise DeadlineExceeded(f"the deadline passed, and the models stay as they are: {exc}") from exc

    def use(self, configuration: Configuration) -> None:
        """Serve these models of the file and no others from now on, and load what is new behind.

        What a client has had replaced meanwhile stays, unless the file says something new. A label that moves waits
        for its version to be loaded, and all else with it. A model whose base path or options change goes on as it was
        until the new one is loaded; one that cannot be loaded does not keep others from changing.

        Raises:
            SettingsError, PreconditionFailed, ModelCacheError: why all stays as it was.
        """
        changed = self._replace(configuration, is_awaited=False, told=configuration)
        self._begin_loads(changed)

    def refresh(self) -> bool:
        """Do at once what the file says, if there is one, list all models anew, and load what is to be loaded then.

        What cannot be loaded is tried again, however lately that has failed; why it cannot is in the status. What
        takes longer than a request waits for a load goes on behind.

        Returns:
            Whether anything is not as it was: models, versions, or whether they can be loaded.

        Raises:
            ConfigUnreadable: there is no such file.
            ConfigRejected: what it says cannot be. As above, all stays as it was.
            PreconditionFailed, Overloaded, ModelCacheError: as `use`.
        """
        deadline = time.monotonic() + self._settings.load_timeout
        if not self._refreshing.acquire(timeout=self._settings.load_timeout):
            raise Overloaded("somebody else has the models looked at; try again later")
        try:
            return self._refresh(deadline)
        finally:
            self._refreshing.release()

    def watch(self, path: str, seconds: float, stopped: threading.Event) -> None:
        """Look at a file every so many seconds, and use what it says whenever that has changed, until stopped.

        What cannot be used is one line in the log. What was wrong with the file itself is not tried again.
        """
        # What was in the file, what that is unless it made no sense, and what was wrong.
        seen: bytes | None = None
        used: Configuration | None = None
        complaint: tuple[bytes | None, type[Exception]] | None = None
        while not stopped.wait(seconds):
            content: bytes | None = None
            try:
                content = read(path, self._settings.storage_options())
                # As one of several, this may have been told since that it is news.
                if content == seen and used in (None, self._told):
                    continue
                configuration = parse(path, content)
                self.use(configuration)
                seen, used, complaint = content, configuration, None
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

    def keep_up(self, seconds: float, stopped: threading.Event) -> None:
        """Have the models that are loaded ahead listed anew every so many seconds, and newer versions loaded."""
        while not stopped.wait(seconds):
            try:
                for model in eager(list(self._models.values()), self._settings, is_lazy=self._is_lazy):
                    self._server.keep_up(model.name)
            # Nobody waits for this thread.
            except Exception:
                logger.exception("cannot look for new versions")

    def _refresh(self, deadline: float) -> bool:
        models, rejected, offers = self._models, self._rejected, self._server.offers()
        if self._settings.model_config_file:
            self._use_now(self._settings.model_config_file)
        self._relist(deadline)
        self._server.forgive()
        self._begin_loads(list(self._models.values()))
        with self._loaded:
            self._loaded.wait_for(lambda: not self._is_loading, max(0.0, deadline - time.monotonic()))
        # That one has been listed for the first time is no change.
        now = self._server.offers()
        are_same = all(now.get(name) == versions for name, versions in offers.items())
        return not are_same or (models, rejected) != (self._models, self._rejected)

    def _use_now(self, path: str) -> None:
        try:
            content = read(path, self._settings.storage_options())
        except SettingsError as exc:
            logger.error("the models stay as they are: %s", exc)
            raise ConfigUnreadable(exc.public) from exc
        try:
            configuration = parse(path, content)
            self._replace(configuration, is_awaited=False, told=configuration, is_news=True)
        except SettingsError as exc:
            logger.error("the models stay as they are: %s", exc)
            raise ConfigRejected(exc.public) from exc

    def _relist(self, deadline: float) -> None:
        looks = [partial(_look, repository, deadline) for repository in self._server.repositories.values()]
        _do_all(looks, _LISTS)

    def _begin_loads(self, models: Sequence[ModelConfig]) -> None:
        """Load those of the models behind that are to be loaded ahead."""
        with self._loaded:
            self._to_load.update((m.name, m) for m in eager(models, self._settings, is_lazy=self._is_lazy))
            if self._to_load and not self._is_loading:
                threading.Thread(target=self._load, name="loads", daemon=True).start()
                self._is_loading = True

    def _load(self) -> None:
        while True:
            with self._loaded:
                models, self._to_load = list(self._to_load.values()), {}
                if not models:
                    self._is_loading = False
                    self._loaded.notify_all()
                    return
            _load_all(models, self._renew)

    def _renew(self, name: str, *, every: bool) -> ServableId:
        repository = self._server.repositories.get(name)
        # What has moved is known by where it was before.
        if repository is not None and repository.is_borrowed:
            _look(repository, time.monotonic() + self._settings.load_timeout)
        return self._server.renew(name, every=every)

    def _replace(
        self,
        configuration: Configuration,
        *,
        is_awaited: bool,
        deadline: float | None = None,
        agree: Callable[[], None] | None = None,
        told: Configuration | None = None,
        is_news: bool = False,
    ) -> list[ModelConfig]:
        """Replace the models; return those that may have to be loaded.

        Args:
            is_awaited: whether nothing is replaced before all that is new is loaded.
            is_news: whether the file counts even if it says what it has said before.
        """
        now = time.monotonic()
        until = now + self._settings.load_timeout
        until = until if deadline is None else min(until, deadline)
        if not self._lock.acquire(timeout=max(0.0, until - now)):
            raise Overloaded("the models are being replaced by somebody else; try again later")
        try:
            if not is_awaited and not is_news and told == self._told:
                return []
            before = self._server.repositories
            wanted = self._wanted(configuration, before, keeps_options=is_awaited)
            new = [model.name for model in wanted.models.values() if self._is_new(model)]
            self._tried = {name: (wanted.models[name], wanted.repositories[name]) for name in new}
            self._bring(wanted, new if is_awaited else (), until)
            if agree is not None:
                self._ask(agree)
            self._server.configure(
                wanted.repositories,
                {name: model.labels for name, model in wanted.models.items()},
                afresh=new if is_awaited else (),
                rejected=wanted.rejected,
            )
            known, self._models, self._rejected = self._models, wanted.models, wanted.rejected
            self._tried = {}
            if told is not None:
                if told.metrics != self._told.metrics:
                    logger.warning("what the file says of metrics now holds from the next start on")
                self._told = told
        finally:
            self._lock.release()
        repositories = wanted.repositories
        if wanted.models != known:
            logger.info("%d models are served now: %s", len(repositories), ", ".join(repositories)[:_MAX_NAMES])
        return [
            model
            for name, model in wanted.models.items()
            if repositories[name] is not before.get(name) or model.is_lazy != known[name].is_lazy
        ]

    def _wanted(
        self, configuration: Configuration, before: Mapping[str, ModelRepository], *, keeps_options: bool
    ) -> _Wanted:
        """Return what is to be served. Whatever is wrong with one model leaves that as it is, and others alone."""
        models: dict[str, ModelConfig] = {}
        repositories: dict[str, ModelRepository] = {}
        rejected = dict(configuration.rejected)
        for model in map(self._with_its_options, configuration.models) if keeps_options else configuration.models:
            try:
                self._check_type(model)
                repositories[model.name] = self._repository(model, before)
                models[model.name] = model
            except (SettingsError, StorageUnavailable) as exc:
                # As in TensorFlow Serving, its file is used as a whole or not at all.
                if not configuration.is_json:
                    raise
                logger.warning("%s", exc)
                rejected[model.name] = why_rejected(exc)
        for name in rejected:
            if name in self._models and name not in models:
                logger.warning("%s goes on as it was", name)
                models[name], repositories[name] = self._models[name], before[name]
        return _Wanted(models, repositories, rejected)

    def _with_its_options(self, model: ModelConfig) -> ModelConfig:
        before = self._models.get(model.name)
        if before is None or self._is_new(model):
            return model
        return model._replace(options=before.options, is_lazy=before.is_lazy)

    def _check_type(self, model: ModelConfig) -> None:
        before = self._models.get(model.name, model)
        if (before.options.stateful is None) != (model.options.stateful is None):
            was, wanted = ("no", "a") if before.options.stateful is None else ("a", "no")
            raise SettingsError(
                f"{model.name}: Model type cannot be changed after it is loaded: it is {was} stateful model, and is to "
                f"be {wanted} stateful one; want another name, or a restart"
            )

    def _repository(self, model: ModelConfig, before: Mapping[str, ModelRepository]) -> ModelRepository:
        if self._is_new(model):
            return self._never_listed(model) or open_repository(model, self._settings)
        repository, known = before[model.name], self._models[model.name]
        is_same = (model.policy, model.options) == (known.policy, known.options)
        return repository if is_same else repository.with_terms(model.policy, model.options)

    def _never_listed(self, model: ModelConfig) -> ModelRepository | None:
        """Return the model's repository of the last try, if that has not lived to see its first listing."""
        if model.name not in self._tried:
            return None
        tried, repository = self._tried[model.name]
        is_same = (tried.base_path, tried.policy, tried.options) == (model.base_path, model.policy, model.options)
        return repository if is_same and repository.known is None else None

    def _is_new(self, model: ModelConfig) -> bool:
        before = self._models.get(model.name)
        return before is None or before.base_path != model.base_path

    def _bring(self, wanted: _Wanted, awaited: Collection[str], deadline: float) -> None:
        """Load what must be there before the models are replaced."""
        loads: list[Callable[[], object]] = [
            partial(self._server.preload, wanted.repositories[name], None, deadline) for name in awaited
        ]
        for name, model in wanted.models.items():
            # Labels of a model that is not awaited apply when their versions come, as at a start.
            if name in awaited or not self._is_new(model):
                loads += [
                    partial(self._check_label, wanted.repositories[name], version, deadline)
                    for version in self._to_check(model)
                ]
        try:
            _do_all(loads, LOADS)
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


def _look(repository: ModelRepository, deadline: float) -> None:
    try:
        repository.relist(deadline)
    # The status says so, and what is known stays known.
    except (StorageUnavailable, LoadPending) as exc:
        logger.warning("%s: its versions are not known: %s", repository.name, exc)


def _load_all(models: Sequence[ModelConfig], start: Start) -> None:
    try:
        for model, outcome in zip(models, start_all(start, models), strict=True):
            if isinstance(outcome, ModelCacheError) and not outcome.is_repeated:
                logger.error("%s is not loaded: %s", model.name, outcome)
    # Whoever waits for this thread waits for its end alone.
    except Exception:
        logger.exception("loading the models failed")


def _do_all(calls: Sequence[Callable[[], object]], at_once: int) -> None:
    """Make the calls, some at once; raise the first error once all have ended."""
    with ThreadPoolExecutor(at_once, thread_name_prefix="reload") as pool:
        for future in [pool.submit(call) for call in calls]:
            future.result()
