"""The versions of one model: ``<base>/<version>/...`` in a storage, as last listed.

A listing that once succeeded is kept until a newer one succeeds: a bucket that cannot be listed takes no model away.
What appears or changes later may still be being uploaded, and is offered when two looks have found it the same.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple, TypeVar

from model_cache.errors import LoadPending, ModelCacheError, ModelNotFound, StorageUnavailable
from model_cache.needed import is_compiled, needed
from model_cache.policy import MAX_VERSION, All, VersionPolicy
from model_cache.storage import Blob, Reconnects, Storage, StorageOptions
from model_cache.timeline import span

logger = logging.getLogger(__name__)

_E = TypeVar("_E", bound=ModelCacheError)

LISTING_TTL = 10.0
"""Seconds for which a listing is believed. Listing costs money (S3: 5 USD for a million) and a round trip."""
SETTLE = 5.0
"""Seconds for which a version must have stayed the same to be taken for whole."""
REFRESH_TIMEOUT = 60.0
"""Seconds after which a listing under way is not counted on: threads of a frozen process stand still for hours."""
MAX_RETIRED = 100
"""Versions that are remembered of those that were offered once: whoever asks for them is told that they are no more."""


class ServableId(NamedTuple):
    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


@dataclass(frozen=True, eq=False)
class ModelVersion:
    """A version as found in storage. Two are equal if they are the same version of the same bytes, to be made ready in
    the same way.
    """

    id: ServableId
    prefix: str
    """What the blobs' keys start with, ending in a slash."""
    blobs: tuple[Blob, ...]
    storage: Storage
    options: Hashable = None
    """What whoever makes it ready has to know, and nobody here understands. No part of the digest: it is the same files
    whatever is made of them.
    """

    def __str__(self) -> str:
        return str(self.id)

    @cached_property
    def files(self) -> tuple[Blob, ...]:
        """Those of the blobs that the model needs; none if no model is among them."""
        blobs = {blob.key.removeprefix(self.prefix): blob for blob in self.blobs}
        return tuple(blobs[name] for name in needed(blobs.keys()))

    @cached_property
    def compiled(self) -> tuple[Blob, ...]:
        """What was compiled of the model and is stored beside it, newest first. It may come and go."""
        found = [blob for blob in self.blobs if is_compiled(blob.key.removeprefix(self.prefix))]
        return tuple(sorted(found, key=lambda blob: blob.modified, reverse=True))

    @cached_property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(blob.size for blob in self.files)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over each file's (key, size, etag): another upload is another digest.

        Where no model is among the blobs it is over all of them, so that it is another one when something comes.
        """
        digest = hashlib.sha256()
        for blob in sorted(self.files or self.blobs, key=lambda blob: blob.key):
            digest.update(repr((blob.key.removeprefix(self.prefix), blob.size, blob.etag)).encode())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ModelVersion):
            return False
        return (self.id, self.options, self.digest) == (other.id, other.options, other.digest)

    @cached_property
    def _hash(self) -> int:
        return hash((self.id, self.options, self.digest))

    def __hash__(self) -> int:
        return self._hash


class _Sighting(NamedTuple):
    """A version that may still be being uploaded."""

    version: ModelVersion
    at: float
    """When the first look that found it like this had ended."""


class _Listing(NamedTuple):
    """What is known of a model. Never changed, only replaced as a whole, so that it can be read without a lock."""

    ticket: int
    """Of the look that found it, or of a later one that failed."""
    since: float
    """The time from which on it is believed for a while."""
    is_outdated: bool
    """Whether it is believed no more, and what is found next is judged as at a start."""
    settled: Mapping[int, ModelVersion]
    """What is taken for whole, whatever the policy."""
    sightings: Mapping[int, _Sighting]
    """What is not yet. What was settled under the same number stays so until then."""

    # What the policy makes of these.
    versions: Mapping[int, ModelVersion]
    candidates: Sequence[ModelVersion]
    unsettled: Sequence[int]
    retired: Sequence[int]
    """Versions that were offered and are no more, ascending; the last `MAX_RETIRED` of them."""

    is_borrowed: bool = False
    """Whether it is of another repository, as nothing has been listed here so far."""
    failure: StorageUnavailable | None = None
    """Why the look with that ticket found nothing, if it failed."""


@dataclass(eq=False)
class _Look:
    """A listing under way."""

    ticket: int
    at: float
    """When it began."""
    outcome: Future[_Listing] = field(default_factory=Future)
    waiting: int = 0
    """How many callers wait for it. Under the repository's lock."""


class ModelRepository:
    """The versions of one model in one storage.

    The first call has them listed and waits for it, and so does the first after `expire`. Any other returns what is
    known, and has it listed anew in the background if that is older than ``ttl`` seconds.

    Whoever waits does so for ``patience`` seconds, or as long as it takes. The listing goes on without him, and is what
    the next call waits for.

    Args:
        policy: which versions are offered; all, if there is none.
        options: of all its versions.
        ready_marker: name of a file that whoever uploads a version writes last. If given, a directory without it is no
            version, and one with it is whole.
        refresh_timeout: seconds after which a listing under way is not counted on any more.
    """

    def __init__(
        self,
        name: str,
        storage: Storage,
        *,
        policy: VersionPolicy | None = None,
        options: Hashable = None,
        ready_marker: str = "",
        ttl: float = LISTING_TTL,
        refresh_timeout: float = REFRESH_TIMEOUT,
        # Not the monotonic clock: it stands still while a platform has the process frozen.
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self._storage = storage
        self._policy = policy or All()
        self._options = options
        self._ready_marker = ready_marker
        self._ttl = ttl
        # Two looks that find the same count if they are this many seconds apart.
        self._settle = min(ttl, SETTLE)
        self._refresh_timeout = refresh_timeout
        self._clock = clock
        # Guards all below, and is held for no I/O. They may be read without it, each at once.
        self._lock = threading.Lock()
        self._known: _Listing | None = None
        # How many looks have begun; the number is the look's ticket. What a later look has found is not overwritten by
        # an earlier one that ends after it.
        self._begun = 0
        # What looks with this ticket or an earlier one found is not to be believed: `expire` was called meanwhile.
        self._expired = 0
        # The last look that has begun, until it has ended.
        self._look: _Look | None = None

    def __str__(self) -> str:
        return f"{self.name} at {self._storage}"

    @property
    def is_in_place(self) -> bool:
        """Whether nothing has to be fetched, as the storage is a local directory."""
        return self._storage.in_place is not None

    def versions(self, patience: float | None = None) -> Mapping[int, ModelVersion]:
        """Return the versions that may be asked for, by number, in ascending order.

        Raises:
            StorageUnavailable: the storage cannot be listed and never could be.
            LoadPending: the first listing is still under way.
        """
        return self._current(patience).versions

    def candidates(self, patience: float | None = None) -> Sequence[ModelVersion]:
        """Return the versions that may answer a request for none in particular, best first.

        Raises:
            StorageUnavailable, LoadPending: as `versions`.
        """
        return self._current(patience).candidates

    def unsettled(self, patience: float | None = None) -> Sequence[int]:
        """Return the numbers of the versions to come, ascending: they are listed, but may still be being uploaded.

        Raises:
            StorageUnavailable, LoadPending: as `versions`.
        """
        return self._current(patience).unsettled

    def find(self, version: int, patience: float | None = None) -> ModelVersion:
        """Return one version.

        Raises:
            ModelNotFound: there is no such version, or the policy leaves it out.
            LoadPending: it has only just appeared; or as `versions`.
            StorageUnavailable: as `versions`.
        """
        known = self._current(patience)
        if found := known.versions.get(version):
            return found
        if version in known.unsettled:
            raise LoadPending(
                f"{ServableId(self.name, version)} has only just appeared in storage and may still be uploaded; "
                "try again later"
            )
        # In brackets is OpenVINO Model Server's text: clients of either server look for theirs.
        raise ModelNotFound(
            f"Servable not found for request: Specific({self.name}, {version}) "
            "(Model with requested version is not found)"
        )

    @property
    def known(self) -> Mapping[int, ModelVersion] | None:
        """The versions that may be asked for as far as is known, whatever its age; None if they were never listed."""
        known = self._known
        return None if known is None else known.versions

    @property
    def stored(self) -> Mapping[int, ModelVersion]:
        """All versions that are taken for whole, offered or not, as far as is known."""
        known = self._known
        return {} if known is None else known.settled

    @property
    def is_borrowed(self) -> bool:
        """Whether what is known is another repository's."""
        known = self._known
        return known is not None and known.is_borrowed

    @property
    def failure(self) -> StorageUnavailable | None:
        """Why nothing could be listed so far, where what is known is another repository's."""
        known = self._known
        return _again(known.failure) if known is not None and known.is_borrowed else None

    @property
    def retired(self) -> Sequence[int]:
        """The numbers of versions that could be asked for once and cannot any more, ascending."""
        known = self._known
        return () if known is None else known.retired

    def stand_ins(self, has_failed: Callable[[ModelVersion], bool]) -> Mapping[int, ModelVersion]:
        """Return the versions that the policy would offer, and does not, if there were not those that have failed."""
        known = self._known
        if known is None:
            return {}
        rest = {number for number, version in known.settled.items() if not has_failed(version)}
        return {number: known.settled[number] for number in self._policy.offers(rest) if number not in known.versions}

    def relist(self, deadline: float) -> StorageUnavailable | LoadPending | None:
        """List now and wait for it, and let what has only just appeared settle; for when somebody asks for that.

        What is found and was not known is judged as at a start, by its age. A storage that fails changes nothing of
        what is known.

        Args:
            deadline: in seconds of the monotonic clock, when nobody waits any longer.

        Returns:
            Why what is known is still what was; None if it is what there is.

        Raises:
            StorageUnavailable, LoadPending: as `versions`.
        """
        self._let_end(deadline)
        self.outdate()
        known, trouble = self._listed_now(deadline)
        # A little more, as the clock that judges may be another.
        pause = self._settle * 1.01
        if known.sightings and time.monotonic() + pause < deadline:
            time.sleep(pause)
            _, trouble = self._listed_now(deadline)
        return trouble

    def _listed_now(self, deadline: float) -> tuple[_Listing, StorageUnavailable | LoadPending | None]:
        """Return what is known after a look that has yet to begin, and why it is what was known before, if it is."""
        self.expire()
        expired = self._expired
        known = self._current(max(0.0, deadline - time.monotonic()))
        if known.ticket <= expired:
            # Somebody else has begun that look; or it takes longer.
            try:
                self._let_end(deadline)
            except LoadPending as exc:
                return known, _again(exc)
            known = self._known or known
        return known, _again(known.failure)

    def _let_end(self, deadline: float) -> None:
        """Wait for a look that is under way: what hangs is not to hang once more."""
        with self._lock:
            look = self._look
            is_alive = look is not None and 0 <= self._clock() - look.at < self._refresh_timeout
        if look is None or not is_alive:
            return
        try:
            look.outcome.exception(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            raise LoadPending(f"the versions of {self.name} are still being listed; try again later") from None

    def with_terms(self, policy: VersionPolicy | None, options: Hashable = None) -> ModelRepository:
        """Return another repository that differs in its policy and options, and knows what this one knows."""
        other = ModelRepository(
            self.name,
            self._storage,
            policy=policy,
            options=options,
            ready_marker=self._ready_marker,
            ttl=self._ttl,
            refresh_timeout=self._refresh_timeout,
            clock=self._clock,
        )
        with self._lock:
            known, other._begun, other._expired = self._known, self._begun, self._expired
        if known:
            settled = {number: other._adopt(version) for number, version in known.settled.items()}
            sightings = {
                number: sighting._replace(version=other._adopt(sighting.version))
                for number, sighting in known.sightings.items()
            }
            other._known = other._succeeding(known, settled, sightings)
        return other

    def succeed(self, other: ModelRepository) -> None:
        """Offer what another one knows, until the first listing has succeeded, for which nobody waits then.

        Does nothing if it has.
        """
        known = other._known
        with self._lock:
            if known is None or self._known is not None:
                return
            # Whatever look is under way or yet to come is a later one.
            self._expired = -1
            listing = self._listing(0, known.since, known.settled, {}, None)
            self._known = listing._replace(is_outdated=True, is_borrowed=True)

    def _adopt(self, version: ModelVersion) -> ModelVersion:
        # The same object, wherever it can be: a look-up of it is an identity check.
        return version if version.options == self._options else replace(version, options=self._options)

    def outdate(self) -> None:
        """Have the next call list anew and not wait for it, whatever the clock says.

        For when so much time may have passed unseen that what was listed says little. What is found then and was not
        listed is judged as at a start, by its age.
        """
        with self._lock:
            # Whatever a look that was under way meanwhile finds may be as old.
            self._look = None
            if self._known:
                self._known = self._known._replace(is_outdated=True)

    def reconnect(self, options: StorageOptions) -> None:
        """Let go of the storage's connections and credentials, as `Reconnects.reconnect`."""
        if isinstance(self._storage, Reconnects):
            self._storage.reconnect(options)

    def expire(self, gone: ModelVersion | None = None) -> None:
        """Have the next call list anew and wait for it; for when what was listed has turned out not to be there.

        Args:
            gone: the version of which that is so. What is there instead has to settle like any that appears.
        """
        with self._lock:
            self._expired = self._begun
            known = self._known
            if gone and known and known.settled.get(gone.id.version) == gone:
                settled = {number: version for number, version in known.settled.items() if version != gone}
                self._known = self._succeeding(known, settled, known.sightings)

    def _current(self, patience: float | None) -> _Listing:
        known = self._known
        if known is None or known.ticket <= self._expired:
            return self._await(patience)
        if not self._is_fresh(known):
            self._refresh()
        return known

    def _is_fresh(self, known: _Listing) -> bool:
        # What has just appeared is looked at again, even by who would not look for anything else.
        ttl = min(self._ttl, LISTING_TTL) if known.sightings else self._ttl
        # A clock that was set back must not prolong it.
        return not known.is_outdated and 0 <= self._clock() - known.since < ttl

    def _await(self, patience: float | None) -> _Listing:
        with self._lock:
            known, look = self._known, self._under_way()
            if known and (look or known.ticket > self._expired):
                # Whoever has begun that look waits for it; others need not.
                return known
            is_begun_here = look is None
            if look is None:
                look = self._begin()
            look.waiting += 1
        if is_begun_here:
            if patience is None:
                self._run(look)
            else:
                self._run_behind(look)
        try:
            error = look.outcome.exception(patience)
        # Not the look's own: that would be returned.
        except TimeoutError:
            if known:
                return known
            raise LoadPending(f"the versions of {self.name} are still being listed; try again later") from None
        finally:
            with self._lock:
                look.waiting -= 1
        if isinstance(error, ModelCacheError):
            # Anew for each, as its traceback keeps alive what the callers' frames hold.
            raise type(error)(*error.args) from error.__cause__
        return look.outcome.result()

    def _refresh(self) -> None:
        with self._lock:
            if self._under_way() or (self._known and self._is_fresh(self._known)):
                return
            look = self._begin()
        self._run_behind(look)

    def _under_way(self) -> _Look | None:
        """Return the look under way, if it can be counted on. Needs the lock."""
        look = self._look
        if look and look.ticket > self._expired and 0 <= self._clock() - look.at < self._refresh_timeout:
            return look
        return None

    def _begin(self) -> _Look:
        """Needs the lock."""
        self._begun += 1
        self._look = _Look(self._begun, self._clock())
        return self._look

    def _run_behind(self, look: _Look) -> None:
        try:
            threading.Thread(target=self._run, args=(look,), name=f"list {self.name}", daemon=True).start()
        # The process may have no more threads.
        except RuntimeError as exc:
            self._fail(look, StorageUnavailable(f"{self._storage} is not listed: {exc}"))

    def _run(self, look: _Look) -> None:
        begun = self._clock()
        try:
            with span("list", model=self.name):
                found = self._found()
            listing = self._accept(look.ticket, found, begun, self._clock())
        # Raised again by those who wait for it.
        except BaseException as exc:  # noqa: BLE001
            self._fail(look, exc)
        else:
            self._end(look)
            look.outcome.set_result(listing)

    def _fail(self, look: _Look, error: BaseException) -> None:
        kept = self._keep(look.ticket, error) if isinstance(error, Exception) else None
        is_awaited = self._end(look)
        if kept or not is_awaited:
            what = f"{self.name}: {'keeping the versions known' if kept else 'its versions are not known'}"
            if isinstance(error, StorageUnavailable):
                logger.warning("%s: %s", what, error)
            else:
                logger.error("%s after a bug", what, exc_info=error)
        if kept:
            look.outcome.set_result(kept)
        else:
            look.outcome.set_exception(error)

    def _end(self, look: _Look) -> bool:
        """Let nobody wait for the look from now on; return whether anybody does."""
        with self._lock:
            if self._look is look:
                self._look = None
            return look.waiting > 0

    def _found(self) -> dict[int, ModelVersion]:
        directories: dict[str, list[Blob]] = defaultdict(list)
        for blob in self._storage.list():
            directory, slash, _ = blob.key.partition("/")
            if slash:
                directories[directory].append(blob)
        found: dict[int, ModelVersion] = {}
        for directory, blobs in directories.items():
            number = _version(directory)
            marker = f"{directory}/{self._ready_marker}"
            files = tuple(blob for blob in blobs if blob.key != marker)
            if number is None or (self._ready_marker and len(files) == len(blobs)):
                continue
            # "007" and "7" are one version; the first found is it.
            found.setdefault(
                number,
                ModelVersion(ServableId(self.name, number), f"{directory}/", files, self._storage, self._options),
            )
        return dict(sorted(found.items()))

    def _keep(self, ticket: int, error: Exception) -> _Listing | None:
        """Believe what is known, if anything is, for another while: a storage that fails is not asked all the time."""
        with self._lock:
            if self._known and self._known.ticket < ticket:
                self._known = self._known._replace(
                    ticket=ticket,
                    since=self._clock(),
                    is_outdated=False,
                    failure=_again(error) if isinstance(error, StorageUnavailable) else self._known.failure,
                )
            return self._known

    def _accept(self, ticket: int, found: Mapping[int, ModelVersion], begun: float, ended: float) -> _Listing:
        with self._lock:
            if self._known is None or self._known.ticket < ticket:
                settled, sightings = self._judge(self._known, found, begun, ended)
                self._known = self._listing(ticket, begun, settled, sightings, self._known)
            return self._known

    def _judge(
        self, known: _Listing | None, found: Mapping[int, ModelVersion], begun: float, ended: float
    ) -> tuple[Mapping[int, ModelVersion], Mapping[int, _Sighting]]:
        """Return what is settled after a look from ``begun`` to ``ended``, and what is not."""
        if self._ready_marker:
            return _keep_same(known.settled if known else {}, found), {}
        if known is None:
            return self._judge_by_age(found, ended)
        return self._compare(known, found, begun, ended)

    def _judge_by_age(
        self, found: Mapping[int, ModelVersion], now: float
    ) -> tuple[Mapping[int, ModelVersion], dict[int, _Sighting]]:
        settled = {number: version for number, version in found.items() if not _is_young(version, now)}
        # A young version is better than none.
        if not self._policy.candidates(settled.keys()):
            return found, {}
        return settled, {number: _Sighting(found[number], now) for number in found.keys() - settled.keys()}

    def _compare(
        self, known: _Listing, found: Mapping[int, ModelVersion], begun: float, ended: float
    ) -> tuple[dict[int, ModelVersion], dict[int, _Sighting]]:
        settled: dict[int, ModelVersion] = {}
        sightings: dict[int, _Sighting] = {}
        for number, version in found.items():
            before = known.settled.get(number)
            if before and _is_same(before, version):
                settled[number] = before
                continue
            since = _seen_since(known.sightings.get(number), version, begun)
            has_stayed = since is not None and begun - since >= self._settle
            if has_stayed or ((known.is_outdated or known.is_borrowed) and not _is_young(version, ended)):
                settled[number] = version
                continue
            sightings[number] = _Sighting(version, ended if since is None else since)
            if before:
                settled[number] = before
        return settled, sightings

    def _succeeding(
        self, known: _Listing, settled: Mapping[int, ModelVersion], sightings: Mapping[int, _Sighting]
    ) -> _Listing:
        """Return what the same look has found, seen otherwise."""
        listing = self._listing(known.ticket, known.since, settled, sightings, known)
        return listing._replace(is_outdated=known.is_outdated, is_borrowed=known.is_borrowed, failure=known.failure)

    def _listing(
        self,
        ticket: int,
        since: float,
        settled: Mapping[int, ModelVersion],
        sightings: Mapping[int, _Sighting],
        before: _Listing | None,
    ) -> _Listing:
        offers, candidates = self._policy.offers, self._policy.candidates
        versions = {number: settled[number] for number in offers(settled.keys())}
        past = {*before.versions, *before.retired} if before else set()
        return _Listing(
            ticket=ticket,
            since=since,
            is_outdated=False,
            settled=settled,
            sightings=sightings,
            versions=versions,
            candidates=tuple(settled[number] for number in candidates(settled.keys())),
            unsettled=tuple(number for number in offers(settled.keys() | sightings.keys()) if number not in settled),
            retired=tuple(sorted(past.difference(versions))[-MAX_RETIRED:]),
        )


def _again(error: _E | None) -> _E | None:
    # Anew for each, as its traceback keeps alive what the callers' frames hold.
    return None if error is None else type(error)(*error.args)


def _is_young(version: ModelVersion, now: float) -> bool:
    # On either side: the store's clock may be ahead of ours. No date at all is 1970.
    # What is compiled of a version comes when that has long been there.
    return any(abs(now - blob.modified) < SETTLE for blob in set(version.blobs).difference(version.compiled))


def _seen_since(sighting: _Sighting | None, version: ModelVersion, now: float) -> float | None:
    # A clock that was set back must not prolong it: what was seen later than now counts for nothing.
    if sighting and _is_same(sighting.version, version) and sighting.at <= now:
        return sighting.at
    return None


def _keep_same(known: Mapping[int, ModelVersion], found: Mapping[int, ModelVersion]) -> dict[int, ModelVersion]:
    """Prefer the objects we have, so that a cache's look-up of an unchanged version is an identity check."""
    return {
        number: known[number] if number in known and _is_same(known[number], version) else version
        for number, version in found.items()
    }


def _is_same(one: ModelVersion, other: ModelVersion) -> bool:
    # The same bytes may have moved from "007" to "7", and what we have of them is not there any more. Digests cost more
    # than a look at the blobs, which mostly are what they were.
    return one.storage is other.storage and one.prefix == other.prefix and (one.blobs == other.blobs or one == other)


def _version(directory: str) -> int | None:
    # ASCII digits alone; int() would take "+1", "1_0" and Arabic digits, and refuse very long ones.
    if not (directory.isascii() and directory.isdigit()) or len(directory.lstrip("0")) > len(str(MAX_VERSION)):
        return None
    version = int(directory.lstrip("0") or "0")
    return version if version <= MAX_VERSION else None
