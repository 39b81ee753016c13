"""The models a server has, and the one way to use them: resolve a name, hold a lease, call the servable.

A model has one version that serves, which answers requests that name none. It goes on doing so until a better one is
loaded, whatever becomes of its files and of the listing; then what is no longer offered leaves the memory.

Which models there are may change at any time. A request goes on with the model as it was when the request came, and
looks at its end whether that still is the one: what it has loaded may be wanted by nobody any more.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from cachetools import LRUCache

from model_cache.cache import Holding, ModelCache, Snapshot
from model_cache.disk import DiskCache
from model_cache.errors import (
    BlobChanged,
    CacheFull,
    DiskUnusable,
    LoadFailed,
    LoadPending,
    ModelCacheError,
    ModelNotFound,
    ModelTooLarge,
    StorageUnavailable,
)
from model_cache.repository import MAX_RETIRED, ModelRepository, ModelVersion, ServableId
from model_cache.storage import StorageOptions
from runtime.errors import NAME, DeadlineExceeded, InvalidRequest, PreconditionFailed, quoted
from runtime.memory import resident
from runtime.servable import Servable
from runtime.status import Code, code_of, public_message

if TYPE_CHECKING:
    from runtime.inventory import Inventory, ModelInventory, Whereabouts
    from runtime.metrics import Metrics
    from runtime.open_inference.repository import Peers
    from runtime.open_inference.statistics import Statistics

logger = logging.getLogger(__name__)

_REPLACED = (LoadFailed, ModelTooLarge, DiskUnusable)
"""That a version is broken, or that there is no place for it, is a reason to load another one; any other trouble would
meet that too."""

LOAD_TIMEOUT = 60.0
"""Seconds that a request waits for a load before it is told to come again; the load goes on."""
RETRY = 10.0
"""Seconds between two attempts to load a version in the background."""
RETRY_IN_PLACE = 600.0
"""Seconds between two attempts for which the version that serves has to leave first: each is an interruption."""

# What OpenVINO Model Server's clients look for, beside TensorFlow Serving's texts.
_NO_MODEL = "Model with requested name is not found"
_NO_VERSION = "Model with requested version is not found"
_RETIRED = "Model with requested version is retired"
_MAX_LABELS = 1000
MAX_REMOVED = 1000
"""Models that are remembered of those that were served once, for their status."""
_LISTS = 8
"""First listings that a look at all models waits for at once."""


class State(IntEnum):
    """TensorFlow Serving's ModelVersionStatus.State."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


class VersionStatus(NamedTuple):
    version: int
    """0 for what is wrong with a model as a whole."""
    state: State
    code: Code
    message: str
    last_failure: str = ""
    """Of a version that is loaded again, and for which no other answers meanwhile: what was wrong the last time."""


class Lease(NamedTuple):
    id: ServableId
    servable: Servable


class _Model(NamedTuple):
    """What is served under a name. Never changed, only replaced as a whole."""

    repository: ModelRepository
    labels: Mapping[str, int]

    @property
    def name(self) -> str:
        return self.repository.name


Holdings = Mapping[ModelVersion, Holding[ModelVersion, Servable]]


class ModelServer:
    """Thread-safe. ``close`` waits for nobody: leases still held end as they end."""

    def __init__(
        self,
        models: Mapping[str, ModelRepository],
        cache: ModelCache[ModelVersion, Servable],
        disk: DiskCache,
        *,
        labels: Mapping[str, Mapping[str, int]] | None = None,
        rejected: Mapping[str, str] | None = None,
        load_timeout: float = LOAD_TIMEOUT,
        metrics: Metrics | None = None,
        is_controlled: bool = True,
        # Not the monotonic clock: it stands still while a platform has the process frozen.
        clock: Callable[[], float] = time.time,
    ) -> None:
        # Each replaced as a whole, so that it can be read without a lock: what is served; why what was to be served is
        # not; and the versions of what was served under these names before.
        self._models = _models(models, labels or {})
        self._rejected = rejected or {}
        self._ended: Mapping[str, Sequence[int]] = {}
        self._cache = cache
        self.disk = disk
        self.metrics = metrics
        """What is counted; None if nothing is."""
        self.is_controlled = is_controlled
        """Whether clients may have models loaded and unloaded."""
        self.peers: Peers | None = None
        """All processes that serve these models; None if there is none but this one."""
        self._load_timeout = load_timeout
        self._clock = clock
        # The version that serves, by model: the object, as it may be in no listing any more. And the candidates as of
        # which the leftovers have been retired. Read and replaced, each at once.
        self._serving: dict[str, ModelVersion] = {}
        self._tidied: dict[str, Sequence[ModelVersion]] = {}
        # Guards all below.
        self._lock = threading.Lock()
        # The models for which a version is being loaded in the background: one at a time.
        self._renewing: set[str] = set()
        self._renewed = threading.Condition(self._lock)
        # After that nothing comes back.
        self._is_closed = False
        # When each version was last tried, by the pause that has to follow. Bounded, as versions come and go.
        self._tries: LRUCache[tuple[ModelVersion, float], float] = LRUCache(256)
        # Set once, by the first who asks.
        self._statistics: Statistics | None = None

    @property
    def statistics(self) -> Statistics:
        """What is counted of the Open Inference Protocol's requests, by this process."""
        found = self._statistics
        if found is None:
            # Here, as few need it.
            from runtime.open_inference.statistics import Statistics

            with self._lock:
                found = self._statistics = self._statistics or Statistics(self)
        return found

    @property
    def repositories(self) -> Mapping[str, ModelRepository]:
        """Of the models there are now, by name."""
        return {name: model.repository for name, model in self._models.items()}

    def start(self, name: str, *, every: bool = False) -> ServableId:
        """Load the model's newest version that loads, however long that takes.

        Args:
            name: of the model.
            every: whether to load all others that are offered, too, as far as there is room. One that cannot be loaded
                is a line in the log.

        Raises:
            ModelCacheError: as `lease`.
        """
        with ExitStack() as stack:
            serving = self._lease(stack, name, None, None, None).id
            if every:
                self._load_others(stack, name)
        return serving

    def renew(self, name: str, *, every: bool = False) -> ServableId:
        """As `start`, and wait for what is better than the version that serves, which it goes on doing meanwhile.

        Raises:
            LoadPending: another one has been loading for as long as a request waits.
            ModelCacheError: as `start`.
        """
        model, serving = self._models.get(name), self._serving.get(name)
        if model is not None and serving is not None:
            better = _better(model.repository.candidates(), serving)
            with self._lock:
                self._let_renew(name, self._load_timeout)
                self._renewing.add(name)
            self._renew(model, better, serving)
        return self.start(name, every=every)

    def load(self, name: str, until: float | None = None) -> ServableId:
        """Have a model's versions listed now, and what is to serve loaded; what has failed before is tried anew.

        Args:
            name: of the model.
            until: in seconds of the monotonic clock, when whoever asks is told that it is still being loaded; as for a
                request, if that is sooner. The load goes on.

        Raises:
            LoadPending: it takes longer.
            StorageUnavailable: nothing could be listed. What was known before is loaded, and serves.
            ModelCacheError: as `lease`; also if it is only the newest version that cannot be loaded, and the one before
                it goes on serving.
        """
        model = self._model(name)
        end = time.monotonic() + self._load_timeout
        until = end if until is None else min(until, end)
        trouble = model.repository.relist(until)
        self.forgive(name)
        self._renew_until(model, until)
        with self.lease(name, until=until) as lease:
            self._check_newest(model)
        if trouble is not None:
            raise trouble
        return lease.id

    def unload(self, name: str) -> None:
        """Have all versions of a model leave the memory now. Who wants it next has it loaded.

        Requests that have it, or wait for it, go on with what they have, which leaves with the last of them.

        Raises:
            ModelNotFound: no such model.
            PreconditionFailed: it has open sequences, which would be lost.
        """
        self._model(name)
        # What retires has been told to leave already.
        holdings = [held for held in _holdings(self._cache.snapshot(), name).values() if held.state != "retired"]
        kept = [holding.key for holding in holdings if holding.value is not None and holding.value.is_kept]
        if holdings and not kept:
            logger.info("%s is unloaded, as somebody has asked for it", name)
            # One may have begun a sequence since.
            kept = [holding.key for holding in holdings if self._cache.retire(holding.key, unless_kept=True)]
        if kept:
            which = ", ".join(map(str, kept))
            raise PreconditionFailed(f"{which} is not unloaded: it has open sequences, which would lose their state")

    def wanted(self) -> set[ServableId]:
        """Return the versions that are offered or in memory, as far as is known. Cheap."""
        wanted = {holding.key.id for holding in self._cache.snapshot().holdings}
        for model in self._models.values():
            wanted.update(version.id for version in (model.repository.known or {}).values())
        return wanted

    def keep_up(self, name: str) -> None:
        """Have a model's versions listed anew if that is due, and load behind what is better than what serves.

        Waits for neither. What had to leave the memory comes back for who asks for it, and not before.
        """
        model, serving = self._models.get(name), self._serving.get(name)
        if model is None or not (serving is None or self._cache.is_loaded(serving)):
            return
        try:
            candidates = model.repository.candidates(0)
        # The next look may find more, and requests are told what is wrong.
        except (StorageUnavailable, LoadPending):
            return
        better = list(candidates) if serving is None else _better(candidates, serving)
        if better:
            self._load_behind(model, better, serving)
        elif candidates is not self._tidied.get(name):
            self._tidy(model, candidates)

    def configure(
        self,
        models: Mapping[str, ModelRepository],
        labels: Mapping[str, Mapping[str, int]] | None = None,
        *,
        afresh: Collection[str] = (),
        rejected: Mapping[str, str] | None = None,
    ) -> None:
        """Serve these models and no others, from now on.

        Whatever is in memory and still wanted stays there. A model that keeps its name goes on with the version that
        serves, even if that is stored where its repository does not look any more, until a better one is loaded; and
        with all that it offers until its new repository has been listed.

        Args:
            models: by name.
            labels: names for versions, by the model's name.
            afresh: the models which do not go on with the version that has served.
            rejected: why others are not served, or not as they were to be, by name.
        """
        for name in (self._serving.keys() & models.keys()).difference(afresh):
            if (model := self._models.get(name)) is not None:
                models[name].succeed(model.repository)
        self._ended = _ended(self._ended, self._models, models)
        self._rejected = rejected or {}
        self._models = _models(models, labels or {}, self._models)
        for name in afresh:
            self._serving.pop(name, None)
        self.sweep()

    def sweep(self) -> None:
        """Have everything leave the memory that no model offers or serves any more."""
        for name in list(self._serving):
            if name not in self._models:
                self._serving.pop(name, None)
                self._tidied.pop(name, None)
        holdings = self._cache.snapshot().holdings
        self._retire([holding.key for holding in holdings if not self._is_wanted(holding)])

    def preload(self, repository: ModelRepository, version: int | None, deadline: float) -> ServableId:
        """Load a version of a model that may not be served yet; without a number the newest that loads.

        Args:
            repository: the model's.
            version: its number.
            deadline: in seconds of the monotonic clock, when nobody waits any longer.

        Raises:
            ModelCacheError: as `lease`.
        """
        patience = _left(deadline)
        if version is None:
            versions = repository.candidates(patience) or _nothing(repository)
        else:
            versions = [repository.find(version, patience)]
        with ExitStack() as stack:
            return self._lease_first(stack, repository, versions, deadline)[0].id

    @contextmanager
    def lease(
        self,
        name: str,
        version: int | None = None,
        *,
        label: str | None = None,
        deadline: float | None = None,
        until: float | None = None,
    ) -> Iterator[Lease]:
        """Hold a servable for the length of a with block; it is loaded if it is not.

        Without a version this is the newest that loads: if the newest is broken, the one before it goes on serving.
        While a newer one than it has served so far is loading, the model goes on serving the one it has.

        Args:
            name: of the model.
            version: None for the one that serves.
            label: that the version has; not together with a version.
            deadline: in seconds of the monotonic clock, when nobody wants it any more.
            until: in the same seconds, when whoever asks is told that it is still being loaded, if that is sooner.

        Raises:
            InvalidRequest: the model has no such label.
            DeadlineExceeded: the deadline has passed.
            ModelNotFound: no such model or version.
            ModelCacheError: it cannot be loaded, or not now.
        """
        patience = self._until(name, deadline)
        with ExitStack() as stack:
            try:
                lease = self._lease(stack, name, version, label, patience if until is None else min(patience, until))
            except (LoadPending, CacheFull, StorageUnavailable) as exc:
                _check_deadline(deadline, name, exc)
                raise
            yield lease

    def status(
        self, name: str, version: int | None = None, *, deadline: float | None = None, until: float | None = None
    ) -> list[VersionStatus]:
        """Return the state of one version, or of all, newest first.

        Args:
            name: of the model.
            version: None for all.
            deadline: in seconds of the monotonic clock, when nobody wants it any more.
            until: as `lease`.

        Raises:
            DeadlineExceeded: it has passed.
            ModelNotFound: no such model or version.
            StorageUnavailable: the storage cannot be listed and never could be.
            LoadPending: the first listing takes too long.
        """
        patience = self._until(name, deadline)
        try:
            return self._status_of(name, version, patience if until is None else min(patience, until))
        except (LoadPending, StorageUnavailable) as exc:
            _check_deadline(deadline, name, exc)
            raise

    def statuses(self, patience: float | None = None) -> Mapping[str, Sequence[VersionStatus]]:
        """Return the states of all models' versions, newest first, also of models that are served no more.

        What is wrong with a model as a whole, as its storage cannot be listed or its configuration is none, is told as
        version 0. Waits for first listings, for ``patience`` seconds or as a request does.
        """
        until = time.monotonic() + (self._load_timeout if patience is None else patience)
        models, ended, rejected = self._models, self._ended, self._rejected
        self._list_first([model.repository for model in models.values()], until)
        return {name: self._told_of(name, until) for name in dict.fromkeys((*models, *ended, *rejected))}

    def offers(self) -> Mapping[str, Mapping[ModelVersion, bool]]:
        """Return which versions may be asked for, of models that have been listed, and whether each failed to load."""
        known = {name: repository.known for name, repository in self.repositories.items()}
        return {
            name: {version: self._cache.failure(version) is not None for version in versions.values()}
            for name, versions in known.items()
            if versions is not None
        }

    def is_quick(self, name: str, version: int | None = None, label: str | None = None) -> bool:
        """Whether a lease would not wait, as what is asked for is loaded, and its servable is quick. Does not wait."""
        model = self._models.get(name)
        if model is None or (label is not None and label not in model.labels):
            return False
        number = version if label is None else model.labels[label]
        found = self._serving.get(name) if number is None else (model.repository.known or {}).get(number)
        if found is None:
            return False
        servable = self._cache.peek(found)
        return servable is not None and servable.is_quick

    def peek(self, name: str, version: int | None = None, label: str | None = None) -> ServableId | None:
        """Return which version a lease would be of, if it is loaded. Does not wait."""
        model = self._models.get(name)
        if model is None or (label is not None and label not in model.labels):
            return None
        number = version if label is None else model.labels[label]
        found = self._serving.get(name) if number is None else (model.repository.known or {}).get(number)
        return found.id if found is not None and self._cache.peek(found) is not None else None

    def snapshot(self) -> Snapshot[ModelVersion, Servable]:
        """Return what is in memory. Cheap."""
        return self._cache.snapshot()

    def inventory(self, patience: float | None = None) -> Inventory:
        """Return what is known of all models, and what memory and disk they take. Looks at the disk.

        Waits for first listings, for ``patience`` seconds or as a request does.
        """
        from runtime.inventory import Inventory, MemoryUsage

        snapshot = self._cache.snapshot()
        memory = resident()
        # For the first listings of all of them.
        until = time.monotonic() + (self._load_timeout if patience is None else patience)
        return Inventory(
            MemoryUsage(snapshot.budget, snapshot.used, memory.total if memory else None),
            self.disk.usage(),
            {
                name: self._model_inventory(model.repository, _holdings(snapshot, name), until)
                for name, model in self._models.items()
            },
        )

    def outdate(self) -> None:
        """Rely on nothing that clocks say: any time may have passed. What is loaded goes on serving."""
        for repository in self.repositories.values():
            repository.outdate()
        self.forgive()

    def forgive(self, name: str | None = None) -> None:
        """Have what could not be loaded be tried again by whoever wants it next, however lately that was.

        Args:
            name: of the one model of which that holds; None for all.
        """
        self._cache.forgive(lambda version: name in (None, version.id.name))
        with self._lock:
            for tried in [tried for tried in self._tries if name in (None, tried[0].id.name)]:
                del self._tries[tried]

    def reconnect(self, options: StorageOptions) -> None:
        """Let go of all connections to storages and all credentials for them, as `Reconnects.reconnect`."""
        for repository in self.repositories.values():
            repository.reconnect(options)

    def close(self) -> None:
        self._is_closed = True
        self._serving.clear()
        self._cache.close()

    def _until(self, name: str, deadline: float | None) -> float:
        """Return until when a request waits for its model."""
        now = time.monotonic()
        if deadline is None:
            return now + self._load_timeout
        if deadline <= now:
            raise DeadlineExceeded(f"the deadline had passed when {quoted(name)} was asked for")
        return min(now + self._load_timeout, deadline)

    def _lease(self, stack: ExitStack, name: str, version: int | None, label: str | None, until: float | None) -> Lease:
        model = self._model(name, version)
        try:
            if label is not None:
                return self._lease_one(stack, model, _labelled(model, label), until)
            if version is None or _means_any(version, model.repository, until):
                return self._lease_any(stack, model, until)
            return self._lease_one(stack, model, version, until)
        finally:
            if not self._is_current(model):
                _in_background(self.sweep)

    def _model(self, name: str, version: int | None = None) -> _Model:
        """Return a model of which a version is asked for; of none in particular if there is no number."""
        model = self._models.get(name)
        if model is not None:
            return model
        asked = f"Latest({quoted(name)})" if version is None else f"Specific({quoted(name)}, {version})"
        why = _RETIRED if version in self._ended.get(name, ()) else _NO_MODEL
        raise ModelNotFound(f"Servable not found for request: {asked} ({why})")

    def _is_current(self, model: _Model) -> bool:
        return self._models.get(model.name) is model

    def _lease_one(self, stack: ExitStack, model: _Model, version: int, until: float | None) -> Lease:
        found = self._find(model.repository, version, until)
        before = self._predecessor(found)
        if before is not None:
            servable = stack.enter_context(self._cache.lease_if_loaded(before))
            if servable is not None:
                self._load_behind(model, [found], before)
                return Lease(found.id, servable)
        return Lease(found.id, self._lease_first(stack, model.repository, [found], until)[1])

    def _find(self, repository: ModelRepository, version: int, until: float | None) -> ModelVersion:
        try:
            return repository.find(version, _left(until))
        except ModelNotFound:
            if found := self._stand_ins(repository).get(version):
                return found
            if version not in self._past(repository):
                raise
        raise ModelNotFound(f"Servable not found for request: Specific({repository.name}, {version}) ({_RETIRED})")

    def _stand_ins(self, repository: ModelRepository) -> Mapping[int, ModelVersion]:
        """Return the versions that are offered as others cannot be loaded; OpenVINO Model Server's fallback."""
        return repository.stand_ins(lambda version: isinstance(self._cache.failure(version), _REPLACED))

    def _past(self, repository: ModelRepository) -> Collection[int]:
        """Return the numbers of versions that were offered under the model's name and are no more."""
        return {*repository.retired, *self._ended.get(repository.name, ())}

    def _predecessor(self, version: ModelVersion) -> ModelVersion | None:
        """Return what answers for a version until it is loaded: the same with other options or bytes, if that is."""
        if self._cache.peek(version) is not None:
            return None
        # That may be of another place, where the model was before.
        serving = self._serving.get(version.id.name)
        if serving is not None and serving.id == version.id and self._cache.peek(serving) is not None:
            return serving
        holdings = [holding for holding in self._cache.snapshot().holdings if holding.state == "loaded"]
        return next((holding.key for holding in reversed(holdings) if _succeeds(version, holding.key)), None)

    def _lease_any(self, stack: ExitStack, model: _Model, until: float | None) -> Lease:
        """Lease the version that serves, or that is to serve from now on."""
        name, repository = model.name, model.repository
        candidates = repository.candidates(_left(until))
        serving = self._serving.get(name)
        if serving is None and candidates:
            # It may have been asked for by its number alone, before its options changed.
            serving = self._predecessor(candidates[0])
        if serving is None or (candidates and candidates[0] is serving):
            version, servable = self._lease_first(stack, repository, candidates or _nothing(repository), until)
        else:
            version, servable = self._lease_best(stack, model, candidates, serving, until)
        if (version is not serving or candidates is not self._tidied.get(name)) and self._is_current(model):
            if version is not serving:
                self._serving[name] = version
            self._tidy(model, candidates)
        return Lease(version.id, servable)

    def _lease_best(
        self,
        stack: ExitStack,
        model: _Model,
        candidates: Sequence[ModelVersion],
        serving: ModelVersion,
        until: float | None,
    ) -> tuple[ModelVersion, Servable]:
        """Lease the best version that is loaded, up to the one that serves, and have better ones loaded behind it."""
        contenders = _contenders(candidates, serving)
        for number, version in enumerate(contenders):
            # Not to be loaded again if it has just left for a better one.
            servable = stack.enter_context(self._cache.lease_if_loaded(version))
            if servable is not None:
                if number:
                    self._load_behind(model, contenders[:number], version)
                return version, servable
        # Whichever is on its way: that which takes the other's place, or the other that comes back.
        first = next(filter(self._cache.is_loading, contenders), contenders[0])
        others = (version for version in dict.fromkeys((*contenders, *candidates)) if version != first)
        return self._lease_first(stack, model.repository, [first, *others], until, serving)

    def _lease_first(
        self,
        stack: ExitStack,
        repository: ModelRepository,
        versions: Sequence[ModelVersion],
        until: float | None,
        serving: ModelVersion | None = None,
    ) -> tuple[ModelVersion, Servable]:
        """Lease the first of the versions that can be had, until that moment of the monotonic clock."""
        first: ModelCacheError | None = None
        try:
            for version in versions:
                if first and not self._may_stand_in(version, first, serving):
                    continue
                try:
                    return version, stack.enter_context(self._cache.lease(version, _left(until)))
                except ModelCacheError as exc:
                    _note(repository, version, exc)
                    first = first or exc
            assert first is not None
            raise first
        finally:
            # Its traceback has this frame, which must not have it in turn.
            del first

    def _may_stand_in(self, version: ModelVersion, error: ModelCacheError, serving: ModelVersion | None) -> bool:
        """Whether to try a version after a better one has failed."""
        # But the one that has served may need no more than what is still on disk.
        return (
            isinstance(error, _REPLACED)
            or self._cache.is_loaded(version)
            or (version == serving and not isinstance(error, (CacheFull, LoadPending)))
        )

    def _tidy(self, model: _Model, candidates: Sequence[ModelVersion]) -> None:
        """Have those leave the memory that are offered no longer, as of a listing with these candidates."""
        self._tidied[model.name] = candidates
        holdings = _holdings(self._cache.snapshot(), model.name).values()
        leftovers = [holding.key for holding in holdings if not self._is_wanted(holding)]
        if leftovers:
            _in_background(self._retire, leftovers)

    def _is_wanted(self, holding: Holding[ModelVersion, Servable]) -> bool:
        version = holding.key
        model = self._models.get(version.id.name)
        if holding.state == "retired" or model is None:
            # The retired have been told to leave already.
            return holding.state == "retired"
        # What is still loading may be what is to serve. And where nothing is listed, nobody knows.
        offered = model.repository.known
        if holding.state == "loading" or offered is None or version == self._serving.get(model.name):
            return True
        number = version.id.version
        wanted = offered.get(number) or self._stand_ins(model.repository).get(number)
        return wanted == version or self._answers_for(version, wanted)

    def _answers_for(self, version: ModelVersion, wanted: ModelVersion | None) -> bool:
        """Whether a version answers as the one that is wanted in its place is not loaded."""
        return wanted is not None and _succeeds(wanted, version) and self._cache.peek(wanted) is None

    def _retire(self, versions: Sequence[ModelVersion]) -> None:
        for version in versions:
            logger.info("%s retires", version)
            self._cache.retire(version)

    def _load_behind(self, model: _Model, versions: Sequence[ModelVersion], serving: ModelVersion | None) -> None:
        """Load the first of the versions that loads, unless that is being done or has lately been tried in vain."""
        name = model.name
        with self._lock:
            if name in self._renewing or not self._is_due(versions[0], RETRY):
                return
            self._renewing.add(name)
        if not _in_background(self._renew, model, versions, serving):
            with self._lock:
                self._renewing.remove(name)
                self._renewed.notify_all()

    def _renew_until(self, model: _Model, until: float) -> None:
        """Load what is better than the version that serves, which does so meanwhile, and wait until that moment.

        Raises:
            LoadPending: it takes longer.
        """
        name = model.name
        with self._lock:
            self._let_renew(name, _left(until))
        serving = self._serving.get(name)
        # One that is not in memory need not come back for a better one.
        if serving is None or not self._cache.is_loaded(serving):
            return
        better = _better(model.repository.candidates(0), serving)
        if better:
            self._load_behind(model, better, serving)
            with self._lock:
                self._let_renew(name, _left(until))

    def _check_newest(self, model: _Model) -> None:
        """
        Raises:
            ModelCacheError: why it is not the newest version that serves.
        """
        candidates = model.repository.candidates(0)
        if not candidates or self._serving.get(model.name) == candidates[0] or not self._is_current(model):
            return
        failure = self._cache.failure(candidates[0])
        raise failure or LoadPending(f"{candidates[0]} is not loaded yet; the one before it goes on serving")

    def _let_renew(self, name: str, patience: float | None) -> None:
        """Wait for a load in the background. Needs the lock, which is let go of meanwhile.

        Raises:
            LoadPending: it takes longer.
        """
        if not self._renewed.wait_for(lambda: name not in self._renewing, patience):
            raise LoadPending(f"a version of {name} is still being loaded; try again later")

    def _is_due(self, version: ModelVersion, pause: float) -> bool:
        """Whether a version has not been tried for so long; then it counts as tried now. Needs the lock."""
        now = self._clock()
        last = self._tries.get((version, pause))
        # Not before, as a clock may be set back.
        if last is not None and 0 <= now - last < pause:
            return False
        self._tries[version, pause] = now
        return True

    def _renew(self, model: _Model, versions: Sequence[ModelVersion], serving: ModelVersion | None) -> None:
        """Load the first of the versions that loads, and let it take the place of the one that serves, if one does.

        That may also be one that answers for a version that was asked for by its number. The model is in `_renewing`.
        """
        try:
            for version in versions:
                if not self._is_current(model) or not isinstance(self._bring(model, version, serving), LoadFailed):
                    break
            if serving is not None:
                self._keep(serving)
        finally:
            with self._lock:
                self._renewing.remove(model.name)
                self._renewed.notify_all()
            if not self._is_current(model):
                self.sweep()

    def _bring(self, model: _Model, version: ModelVersion, serving: ModelVersion | None) -> ModelCacheError | None:
        """Load a version and let it serve; return why not, if it cannot."""
        try:
            if serving is None:
                self._load(version)
            else:
                self._load_beside_or_instead(version, serving)
        except ModelCacheError as exc:
            _note(model.repository, version, exc)
            if not exc.is_repeated:
                logger.warning("%s is not loaded, %s goes on serving: %s", version, serving or "nothing", exc)
            return exc
        # Nobody waits for this thread.
        except Exception:
            logger.exception("loading %s failed", version)
            return None
        candidates = model.repository.candidates()
        if self._is_current(model):
            # It may have been taken back meanwhile.
            if version in candidates and self._serving.get(model.name) is serving:
                self._serving[model.name] = version
            self._tidy(model, candidates)
        return None

    def _load_beside_or_instead(self, version: ModelVersion, serving: ModelVersion) -> None:
        try:
            # Held, as otherwise it may be what has to leave for it.
            with self._cache.lease(serving):
                return self._load(version)
        except CacheFull:
            with self._lock:
                if not self._is_due(version, RETRY_IN_PLACE):
                    raise
        logger.info("%s leaves for %s, as there is no room for both", serving, version)
        # Its leases end and no new ones begin, so that under any traffic it goes.
        self._cache.retire(serving)
        self._load(version)
        with self._lock:
            self._tries.pop((version, RETRY_IN_PLACE), None)

    def _keep(self, serving: ModelVersion) -> None:
        """Load the version that serves, if it still does and has left in vain."""
        # Looked at in the opposite order to that of `close`, which must not be undone.
        if self._cache.is_loaded(serving) or self._is_closed or not self._still_answers(serving):
            return
        try:
            self._load(serving)
        except ModelCacheError as exc:
            logger.warning("%s cannot come back: %s", serving, exc)

    def _still_answers(self, version: ModelVersion) -> bool:
        name, number = version.id
        if self._serving.get(name) is version:
            return True
        model = self._models.get(name)
        return model is not None and self._answers_for(version, (model.repository.known or {}).get(number))

    def _load(self, version: ModelVersion) -> None:
        with self._cache.lease(version):
            pass

    def _load_others(self, stack: ExitStack, name: str) -> None:
        """Load all versions that are offered, newest first. Those that are stay leased, not to leave for each other."""
        model = self._models.get(name)
        tried: set[ModelVersion] = set()
        while model is not None and self._is_current(model):
            offered = {**(model.repository.known or {}), **self._stand_ins(model.repository)}
            version = next((offered[n] for n in sorted(offered, reverse=True) if offered[n] not in tried), None)
            if version is None:
                break
            tried.add(version)
            try:
                stack.enter_context(self._cache.lease(version))
            except ModelCacheError as exc:
                _note(model.repository, version, exc)
                if not exc.is_repeated:
                    logger.warning("%s is not loaded: %s", version, exc)
                if isinstance(exc, CacheFull):
                    break

    def _status_of(self, name: str, version: int | None, until: float) -> list[VersionStatus]:
        model = self._models.get(name)
        past = self._ended.get(name, ()) if model is None else self._past(model.repository)
        if model is None and not past and name not in self._rejected:
            what = f"version {version}" if version else "any versions"
            raise ModelNotFound(f"Could not find {what} of model {quoted(name)} ({_NO_MODEL})")
        holdings = _holdings(self._cache.snapshot(), name)
        statuses = self._leaving(holdings) if model is None else self._statuses(model.repository, holdings, until)
        if model is not None:
            # What that has waited for may have changed it.
            past = self._past(model.repository)
        stored = {} if model is None else model.repository.stored
        statuses = {**{number: self._past_status(number, stored.get(number)) for number in past}, **statuses}
        wrong = self._wrong_with(name)
        if not statuses and not wrong:
            raise ModelNotFound(f"Could not find any versions of model {name} ({_NO_VERSION})")
        if version is None or (version == 0 and version not in statuses):
            return [*(statuses[number] for number in sorted(statuses, reverse=True)), *wrong]
        if version not in statuses:
            raise ModelNotFound(f"Could not find version {version} of model {name} ({_NO_VERSION})")
        return [statuses[version]]

    def _past_status(self, number: int, stored: ModelVersion | None) -> VersionStatus:
        # It may be passed over for what is wrong with it, and not for its age alone.
        failure = None if stored is None else self._cache.failure(stored)
        if failure is None:
            return VersionStatus(number, State.END, Code.OK, "")
        return VersionStatus(number, State.END, code_of(failure), public_message(failure))

    def _told_of(self, name: str, until: float) -> list[VersionStatus]:
        try:
            return self._status_of(name, None, until)
        except ModelNotFound:
            return []
        except (StorageUnavailable, LoadPending) as exc:
            return [VersionStatus(0, State.END, code_of(exc), public_message(exc)), *self._wrong_with(name)]

    def _wrong_with(self, name: str) -> list[VersionStatus]:
        """Return what is wrong with the configuration of a model, as its version 0."""
        reason = self._rejected.get(name)
        return [] if reason is None else [VersionStatus(0, State.END, Code.INVALID_ARGUMENT, reason)]

    def _list_first(self, repositories: Sequence[ModelRepository], until: float) -> None:
        """Have those listed at once that never were: one after the other they would take too long."""
        unknown = [repository for repository in repositories if repository.known is None]
        if len(unknown) < 2:
            return
        # Here, as few need it.
        from concurrent.futures import ThreadPoolExecutor

        def look(repository: ModelRepository) -> None:
            with suppress(StorageUnavailable, LoadPending):
                repository.versions(_left(until))

        with ThreadPoolExecutor(_LISTS, thread_name_prefix="list") as pool:
            for future in [pool.submit(look, repository) for repository in unknown]:
                future.result()

    def _leaving(self, holdings: Holdings) -> dict[int, VersionStatus]:
        """Return the states of what is in memory of a model that is served no more."""
        return {
            version.id.version: VersionStatus(version.id.version, self._state(holding, False), Code.OK, "")
            for version, holding in holdings.items()
        }

    def _statuses(self, repository: ModelRepository, holdings: Holdings, until: float) -> dict[int, VersionStatus]:
        """Return the states of the versions that are offered, and of others that are still in memory."""
        offered = {**repository.versions(_left(until)), **self._stand_ins(repository)}
        unsettled = repository.unsettled(_left(until))
        statuses = {number: VersionStatus(number, State.START, Code.OK, "") for number in unsettled}
        for version in (*holdings, *offered.values()):
            statuses[version.id.version] = self._status(version, holdings, version in offered.values())
        serving = self._serving.get(repository.name)
        if serving is not None and (why := self._why_kept(repository, serving, offered)):
            number = serving.id.version
            statuses[number] = VersionStatus(number, State.AVAILABLE, code_of(why), public_message(why))
        return statuses

    def _why_kept(
        self, repository: ModelRepository, serving: ModelVersion, offered: Mapping[int, ModelVersion]
    ) -> ModelCacheError | None:
        """Return why a version serves that is not offered any more, if it is for want of another one."""
        if repository.failure is not None:
            return repository.failure
        successor = offered.get(serving.id.version)
        if successor is not None:
            return None if successor == serving else self._cache.failure(successor)
        if offered or repository.unsettled(0):
            return None
        return ModelNotFound(f"{repository.name} has no version any more where it is stored; {serving} goes on serving")

    def _status(self, version: ModelVersion, holdings: Holdings, is_offered: bool) -> VersionStatus:
        number, holding = version.id.version, holdings.get(version)
        if holding is not None and holding.state != "loading":
            return VersionStatus(number, self._state(holding, is_offered), Code.OK, "")
        failure = self._cache.failure(version)
        if holding is not None:
            why = "" if failure is None or self._predecessor(version) is not None else public_message(failure)
            return VersionStatus(number, State.LOADING, Code.OK, "", why)
        if failure is not None:
            # Requests for it may be answered all the same, by what it was before.
            state = State.END if self._predecessor(version) is None else State.AVAILABLE
            return VersionStatus(number, state, code_of(failure), public_message(failure))
        # It can be loaded on demand, so a predict sent now will be answered.
        return VersionStatus(number, State.AVAILABLE, Code.OK, "")

    def _state(self, holding: Holding[ModelVersion, Servable], is_offered: bool) -> State:
        if holding.state == "loading":
            return State.LOADING
        is_wanted = is_offered or self._serving.get(holding.key.id.name) == holding.key
        return State.AVAILABLE if holding.state == "loaded" and is_wanted else State.UNLOADING

    def _model_inventory(self, repository: ModelRepository, holdings: Holdings, until: float) -> ModelInventory:
        from runtime.inventory import ModelInventory

        try:
            statuses = self._statuses(repository, holdings, until)
            candidates, offered = repository.candidates(_left(until)), repository.versions(_left(until))
        except (StorageUnavailable, LoadPending) as exc:
            return ModelInventory([], public_message(exc))
        versions = {version.id.version: version for version in (*holdings, *offered.values())}
        return ModelInventory(
            [
                self._whereabouts(statuses[number], versions.get(number), holdings, candidates)
                for number in sorted(statuses, reverse=True)
            ],
            "",
        )

    def _whereabouts(
        self,
        status: VersionStatus,
        version: ModelVersion | None,
        holdings: Holdings,
        candidates: Sequence[ModelVersion],
    ) -> Whereabouts:
        from runtime.inventory import Whereabouts

        holding = holdings.get(version) if version else None
        return Whereabouts(
            status.version,
            status.state.name,
            # What is listed and not settled yet has no version.
            is_stored=version is None or version in candidates,
            is_on_disk=version is not None and self.disk.is_cached(version),
            is_in_memory=holding is not None,
            stored_size=version.size if version else None,
            memory_size=holding.size if holding else 0,
            leases=holding.leases if holding else 0,
            leased_at=holding.leased_at if holding else None,
            phases=holding.value.phases if holding and holding.value else None,
        )


def _models(
    repositories: Mapping[str, ModelRepository],
    labels: Mapping[str, Mapping[str, int]],
    before: Mapping[str, _Model] | None = None,
) -> Mapping[str, _Model]:
    """Return the models by name; those that are as before are the same objects."""
    models: dict[str, _Model] = {}
    for name, repository in repositories.items():
        model = _Model(repository, labels.get(name, {}))
        known = (before or {}).get(name)
        models[name] = known if known == model else model
    return models


def _ended(
    before: Mapping[str, Sequence[int]], models: Mapping[str, _Model], after: Mapping[str, ModelRepository]
) -> Mapping[str, Sequence[int]]:
    """Return the versions, by model, that were offered by repositories which are none any more."""
    ended = dict(before)
    for name, model in models.items():
        repository = model.repository
        if after.get(name) is not repository:
            numbers = {*ended.pop(name, ()), *(repository.known or ()), *repository.retired}
            if numbers:
                ended[name] = sorted(numbers)[-MAX_RETIRED:]
    for name in [name for name in ended if name not in after][:-MAX_REMOVED]:
        del ended[name]
    return ended


def _succeeds(version: ModelVersion, other: ModelVersion) -> bool:
    """Whether one is what the other has become, of the same storage: made ready in another way, or of other bytes."""
    return version.id == other.id and version.storage is other.storage and version != other


def _contenders(candidates: Sequence[ModelVersion], serving: ModelVersion) -> list[ModelVersion]:
    """Return the candidates that are better than the version that serves, best first, and that one."""
    contenders: list[ModelVersion] = []
    for version in candidates:
        contenders.append(version)
        if version == serving:
            return contenders
        # One with a lower number is not better than what this one was.
        if _succeeds(version, serving):
            break
    return [*contenders, serving]


def _better(candidates: Sequence[ModelVersion], serving: ModelVersion) -> list[ModelVersion]:
    return [version for version in _contenders(candidates, serving) if version != serving]


def _labelled(model: _Model, label: str) -> int:
    if label in model.labels:
        return model.labels[label]
    known = f"has the labels {', '.join(model.labels)[:_MAX_LABELS]}" if model.labels else "has no labels"
    raise InvalidRequest(f"Unrecognized servable version label: {quoted(label, NAME)}; {model.name} {known}")


def _note(repository: ModelRepository, version: ModelVersion, error: ModelCacheError) -> None:
    if isinstance(error, BlobChanged):
        repository.expire(version)


def _holdings(snapshot: Snapshot[ModelVersion, Servable], name: str) -> Holdings:
    """Return what there is of a model. A version that is loaded anew while it retires counts as loaded anew."""
    holdings: dict[ModelVersion, Holding[ModelVersion, Servable]] = {}
    for holding in snapshot.holdings:
        if holding.key.id.name == name:
            holdings.setdefault(holding.key, holding)
    return holdings


def _in_background(do: Callable[..., None], *args: object) -> bool:
    """Begin to do it in a thread; return whether there is one. What is done so is not worth failing a request for."""
    try:
        threading.Thread(target=do, args=args, daemon=True).start()
    # The process may have no more threads.
    except RuntimeError as exc:
        logger.warning("%s is put off: %s", do.__name__, exc)
        return False
    return True


def _nothing(repository: ModelRepository) -> NoReturn:
    if unsettled := repository.unsettled(0):
        raise LoadPending(
            f"{ServableId(repository.name, unsettled[-1])} has only just appeared in storage and may still be "
            "uploaded; try again later"
        )
    raise ModelNotFound(
        f"Servable not found for request: Latest({repository.name}) ({_NO_VERSION}): where it is stored there is no "
        "directory named by a number, which would be a version"
    )


def _means_any(version: int, repository: ModelRepository, until: float | None) -> bool:
    # OpenVINO Model Server's clients say 0 for "the default one". To TensorFlow Serving's it is a version like any.
    return version == 0 and 0 not in repository.versions(_left(until))


def _left(until: float | None) -> float | None:
    """Return the seconds until a moment of the monotonic clock; None for no end."""
    return None if until is None else max(0.0, until - time.monotonic())


def _check_deadline(deadline: float | None, name: str, error: ModelCacheError) -> None:
    """Raise DeadlineExceeded, with the error as its cause, if the deadline has passed."""
    if deadline is not None and time.monotonic() >= deadline:
        raise DeadlineExceeded(
            f"the deadline passed before {quoted(name)} was there: {public_message(error)}"
        ) from error
