"""Requests that wait are run together, as one inference.

No thread is anybody's but the callers'. A batch is run by one of those whose requests are in it, its leader, while the
others sleep; whoever has run one hands its slot to the leader of the next. Nothing polls, and a batch costs one wake-up
for each of its requests.

Only what can be stacked shares a batch: requests of one signature and, unless shorter ones are padded, of one shape.
And only what succeeds stays together: if a batch fails, each of its requests runs alone, so that none is answered for
what is another's fault.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

from runtime.errors import CannotReshape, DeadlineExceeded, InferenceFailed, InvalidRequest, Overloaded
from runtime.inputs import check_inputs
from runtime.pool import receive
from runtime.servable import Observed, Observer, Servable, Tensors, Usage
from runtime.signature import DYNAMIC, Signature
from runtime.stacking import Shapes, join, longest, row_size, rows_of, stack, unstack

if TYPE_CHECKING:
    from runtime.batching import BatchingParameters

logger = logging.getLogger(__name__)

QUEUE_TIMEOUT = 30.0
"""Seconds that a request without a deadline waits for a slot; TensorFlow Serving gives a whole REST request as long."""
_MOST_PADDED = 4
"""Times what its requests have that a padded batch may have: a long row beside many short ones, or two that are long in
dimensions of their own, would make gigabytes of kilobytes."""
_PADDED_ANYWAY = 1 << 20
"""Bytes that a batch may have whatever its requests have."""
_MOST_FILLED = 256 << 20
"""Bytes that rows may have which are there for the sake of an allowed batch size."""
_MAY_BE_ANOTHERS = (InvalidRequest, InferenceFailed, CannotReshape, MemoryError)
"""What a batch fails with if one of its requests is to blame, or all of them together are too large."""
_NOT_BY_ROWS = (
    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input tensors"
)


class BatchingServable:
    """Runs waiting requests to ``inner`` together. Made by `BatchingLoader`.

    ``close`` waits for nobody, as there is nobody to wait for: whoever closes holds the last lease.
    """

    def __init__(
        self,
        name: str,
        inner: Servable,
        parameters: BatchingParameters,
        batched: frozenset[str],
        *,
        queue_timeout: float = QUEUE_TIMEOUT,
    ) -> None:
        """
        Args:
            batched: the signatures all of whose inputs and outputs begin with an open dimension.
            queue_timeout: see `QUEUE_TIMEOUT`.
        """
        self.size = inner.size
        self.phases = inner.phases
        self.concurrency = inner.concurrency
        # Whoever is the first of a batch waits for others.
        self.is_quick = False
        # What remembers its callers is not batched.
        self.is_kept = False
        self.signatures = inner.signatures
        self._observer: Observer | None = None
        self._name = name
        self._inner = inner
        self._parameters = parameters
        self._timeout = parameters.batch_timeout_micros / 1e6
        self._queue_timeout = queue_timeout
        # How many rows a batch of each signature may have.
        self._limits = {name: min([parameters.batch_limit, *_upper_bounds(inner.signatures[name])]) for name in batched}
        # Replaced as a whole, and only by smaller ones: signatures turn out not to be what they look like.
        self._batched = batched
        # Guards all below, and the tasks of batches that wait. Once a batch is taken, its tasks stay.
        self._lock = threading.Lock()
        # While a slot is free no batch waits that is ready, but for one whose leader is about to notice that it is due.
        self._free = parameters.num_batch_threads or inner.concurrency
        # Batches that no slot has taken yet, oldest first. None is empty. Of each key all but the last are closed.
        self._waiting: list[_Batch] = []

    def __repr__(self) -> str:
        with self._lock:
            waiting = sum(len(batch.tasks) for batch in self._waiting)
            return (
                f"<BatchingServable {self._name} {self._free} free, {waiting} waiting in {len(self._waiting)} batches>"
            )

    @property
    def observer(self) -> Observer | None:
        return self._observer

    @observer.setter
    def observer(self, observer: Observer | None) -> None:
        self._observer = observer
        if isinstance(self._inner, Observed):
            self._inner.observer = observer

    @property
    def usage(self) -> Usage:
        inner = self._inner.usage if isinstance(self._inner, Observed) else Usage(1, 0, 0)
        with self._lock:
            return inner._replace(stacking=sum(len(batch.tasks) for batch in self._waiting))

    def predict(self, signature_name: str, inputs: Tensors, deadline: float | None = None) -> Tensors:
        if signature_name not in self._batched:
            return self._inner.predict(signature_name, inputs, deadline)
        # Here and not in the batch, where it would be everybody's error, or be padded away.
        check_inputs(self.signatures[signature_name].inputs, inputs)
        rows = rows_of(inputs)
        if rows > self._parameters.max_batch_size:
            raise InvalidRequest(
                f"Task size {rows} is larger than maximum input batch size {self._parameters.max_batch_size}"
            )
        # There is nothing to pad with, and nothing to gain.
        if not all(array.size for array in inputs.values()):
            return self._inner.predict(signature_name, inputs, deadline)
        if rows > self._limits[signature_name]:
            return self._predict_in_parts(signature_name, inputs, rows, deadline)
        return self._predict_in_batch(signature_name, _Task(inputs, rows, deadline))

    def close(self) -> None:
        self._inner.close()

    def _predict_in_parts(self, signature_name: str, inputs: Tensors, rows: int, deadline: float | None) -> Tensors:
        """Run what is too large for a batch in parts, one after the other, each with whatever else waits."""
        limit = self._limits[signature_name]
        sizes = [min(limit, rows - at) for at in range(0, rows, limit)]
        parts = unstack(inputs, sizes, rows) or []
        tasks = [_Task(part, size, deadline) for part, size in zip(parts, sizes, strict=True)]
        answers = [self._predict_in_batch(signature_name, task) for task in tasks]
        if any(unstack(answer, [size], size) is None for answer, size in zip(answers, sizes, strict=True)):
            self._stop_batching(signature_name, _NOT_BY_ROWS)
        elif (joined := join(answers, rows)) is not None:
            return joined
        return self._inner.predict(signature_name, inputs, deadline)

    def _predict_in_batch(self, signature_name: str, task: _Task) -> Tensors:
        key = self._key(signature_name, task.inputs)
        with self._lock:
            batch = self._join(key, task)
            self._see(batch)
            self._dispatch(task)
        answer = self._wait(batch, task)
        return self._predict_alone(batch, task) if answer is None else answer

    def _key(self, signature_name: str, inputs: Tensors) -> _Key:
        # Dtypes and ranks are the signature's.
        if self._parameters.pad_variable_length_inputs:
            return _Key(signature_name, ())
        return _Key(signature_name, tuple(inputs[name].shape[1:] for name in self.signatures[signature_name].inputs))

    def _join(self, key: _Key, task: _Task) -> _Batch:
        """Put the task into a batch that waits. Needs the lock."""
        same = [batch for batch in self._waiting if batch.key == key]
        limit = self._limits[key.signature_name]
        if same and same[-1].rows + task.rows <= limit and self._is_worth_padding(same[-1], task):
            same[-1].add(task, limit)
            return same[-1]
        if len(same) >= self._parameters.max_enqueued_batches:
            raise Overloaded(
                "The batch scheduling queue to which this task was submitted is full: "
                f"{len(same)} batches for {self._name} are waiting"
            )
        if same:
            same[-1].is_closed = True
        batch = _Batch(key, time.monotonic() + self._timeout)
        batch.add(task, limit)
        self._waiting.append(batch)
        return batch

    def _is_worth_padding(self, batch: _Batch, task: _Task) -> bool:
        """Whether the batch with this task would not be much larger than what is in it. Needs the lock."""
        if not self._parameters.pad_variable_length_inputs:
            return True
        row = row_size(task.inputs, longest(task.inputs, batch.longest))
        return row * (batch.rows + task.rows) <= _MOST_PADDED * (batch.size + task.size) + _PADDED_ANYWAY

    def _see(self, batch: _Batch) -> None:
        """Note whether the batch is due, ahead of `_dispatch`, to which it is then too. Needs the lock."""
        batch.is_seen_due = batch.due <= time.monotonic()

    def _dispatch(self, task: _Task | None = None) -> None:
        """Give free slots to batches that are ready. Needs the lock.

        Args:
            task: the caller's own, if it has one that waits: being awake, it is the best leader its batch can have.
        """
        while self._free and (batch := self._next()):
            self._free -= 1
            self._waiting.remove(batch)
            batch.taken_at = time.monotonic()
            candidates = batch.live() or batch.tasks
            # It has to stay to the end, so it must be one of those who can wait longest.
            latest = max(map(_deadline, candidates))
            patient = [candidate for candidate in candidates if _deadline(candidate) == latest]
            batch.leader = task if task in patient else patient[0]
            batch.leader.inbox.put(_Word.LEAD)

    def _next(self) -> _Batch | None:
        if not self._waiting:
            return None
        now = time.monotonic()
        return next((batch for batch in self._waiting if batch.is_closed or batch.due <= now), None)

    def _wait(self, batch: _Batch, task: _Task) -> Tensors | None:
        """Return the task's part of what its batch gives; None if it is to be run alone."""
        while True:
            try:
                message = receive(task.inbox, self._patience(batch, task))
            except Empty:
                message = _Word.LOOK
            if message is _Word.LOOK:
                self._look(batch, task)
            elif message is _Word.LEAD:
                return self._lead(batch, task)
            elif message is _Word.ALONE:
                return None
            else:
                return message

    def _patience(self, batch: _Batch, task: _Task) -> float:
        """Return the seconds after which the task is to look at its batch, unless it is told something before."""
        now = time.monotonic()
        until = inf if task.deadline is None else task.deadline
        # Read without the lock: if it changes now, the task is told, or it looks once too often.
        if batch.leader is None:
            until = min(until, batch.due + self._queue_timeout)
            # It is enough that one of them sees it become due. From then on it is for those who free slots; not before,
            # as this clock says so later than that of whoever looked last.
            if batch.tasks[0] is task and not batch.is_seen_due:
                until = min(until, batch.due)
        return min(max(0.0, until - now), threading.TIMEOUT_MAX)

    def _look(self, batch: _Batch, task: _Task) -> None:
        """Dispatch the batch if it is due; give up the task if its time is over."""
        with self._lock:
            now = time.monotonic()
            if batch.leader is None:
                if not task.is_over(now) and now < batch.due + self._queue_timeout:
                    self._see(batch)
                    self._dispatch(task)
                    return
                self._leave(batch, task)
            # What it has just been given to lead is not its own alone.
            elif batch.leader is task or not task.is_over(now):
                return
        if task.is_over(now):
            raise _over()
        raise Overloaded(f"a request to {self._name} had no free slot for {self._queue_timeout:.0f} s")

    def _leave(self, batch: _Batch, task: _Task) -> None:
        """Take the task out of a batch that waits. Needs the lock."""
        batch.tasks.remove(task)
        batch.rows -= task.rows
        batch.size -= task.size
        if batch.tasks:
            # Somebody has to see when it is due.
            batch.tasks[0].inbox.put(_Word.LOOK)
        else:
            self._waiting.remove(batch)

    def _lead(self, batch: _Batch, task: _Task) -> Tensors | None:
        """Run the batch, give up its slot and tell the others; return the task's own part."""
        tasks = batch.live()
        answers: Sequence[Tensors | None] = [None] * len(tasks)
        try:
            answers = self._run(batch, tasks, task)
        finally:
            with self._lock:
                self._free += 1
                self._dispatch()
            for other, answer in zip(tasks, answers, strict=True):
                if other is not task:
                    other.inbox.put(_Word.ALONE if answer is None else answer)
        if not tasks:
            raise _over()
        return answers[tasks.index(task)]

    def _run(self, batch: _Batch, tasks: list[_Task], leader: _Task) -> Sequence[Tensors | None]:
        """Return the part of each task; None for those to be run alone."""
        signature_name = batch.key.signature_name
        rows = sum(task.rows for task in tasks)
        if tasks and self._observer is not None:
            self._observer.stacked(rows)
        padded = self._parameters.padded(rows)
        is_too_much = (padded - rows) * sum(task.size for task in tasks) > _MOST_FILLED * rows
        if is_too_much or padded > self._limits[signature_name]:
            padded = rows
        if len(tasks) == 1 and rows == padded:
            return [self._inner.predict(signature_name, tasks[0].inputs, tasks[0].deadline)]
        if not tasks:
            return []
        try:
            inputs = stack([task.inputs for task in tasks], padded)
            outputs = self._inner.predict(signature_name, inputs, leader.deadline)
        # Only who is to blame is to hear of it.
        except _MAY_BE_ANOTHERS as exc:
            batch.is_telling = not isinstance(exc, MemoryError)
            logger.info("a batch of %d requests to %s is run one by one, as it failed: %s", len(tasks), self._name, exc)
            return [None] * len(tasks)
        answers = unstack(outputs, [task.rows for task in tasks], padded)
        if answers is None:
            self._stop_batching(signature_name, _NOT_BY_ROWS)
            return [None] * len(tasks)
        return answers

    def _predict_alone(self, batch: _Batch, task: _Task) -> Tensors:
        """Run a task whose batch has failed."""
        outputs = self._inner.predict(batch.key.signature_name, task.inputs, task.deadline)
        with self._lock:
            batch.acquitted += 1
            is_nobodys_fault = batch.is_telling and batch.acquitted == len(batch.tasks)
        if is_nobodys_fault:
            self._stop_batching(batch.key.signature_name, "a batch has failed whose requests all succeed alone")
        return outputs

    def _stop_batching(self, signature_name: str, reason: str) -> None:
        with self._lock:
            is_news = signature_name in self._batched
            self._batched -= {signature_name}
        if is_news:
            logger.warning("requests to %s of %s are no longer batched: %s", signature_name, self._name, reason)


class _Word(Enum):
    """What a task is told, if it is not its answer."""

    LEAD = "the batch has a slot, and it is yours to run"
    LOOK = "see whether the batch is due"
    ALONE = "the batch has no answer for you"


class _Key(NamedTuple):
    """What the tasks of a batch have in common."""

    signature_name: str
    shapes: tuple[tuple[int, ...], ...]
    """Of each input, less the 0th dimension. None if they are padded."""


@dataclass(eq=False)
class _Task:
    """A request, or a part of one, and the thread that waits for it."""

    inputs: Tensors
    rows: int
    deadline: float | None
    inbox: SimpleQueue[Tensors | _Word] = field(default_factory=SimpleQueue)

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(array.nbytes for array in self.inputs.values())

    def is_over(self, now: float) -> bool:
        return self.deadline is not None and self.deadline <= now


@dataclass(eq=False)
class _Batch:
    key: _Key
    due: float
    """When it is to run whether it is full or not."""
    tasks: list[_Task] = field(default_factory=list)
    rows: int = 0
    size: int = 0
    """Bytes of what its requests have brought."""
    longest: Shapes = field(default_factory=dict)
    """Of each input, less the 0th dimension: what they would be padded to."""
    is_seen_due: bool = False
    """Whether slots have been given out since it became due: if it has none it is told when there is one."""
    is_closed: bool = False
    """Whether it is full, or has had no room for somebody: it is not to wait for more."""
    leader: _Task | None = None
    """Who runs it; None as long as it waits for a slot."""
    taken_at: float = inf
    is_telling: bool = True
    """Whether it says something of the signature if it fails and its tasks succeed alone."""
    acquitted: int = 0
    """Tasks that have succeeded alone where it failed."""

    def add(self, task: _Task, limit: int) -> None:
        self.tasks.append(task)
        self.rows += task.rows
        self.size += task.size
        self.longest = longest(task.inputs, self.longest)
        self.is_closed = self.rows == limit

    def live(self) -> list[_Task]:
        """Return the tasks that are run: those whose time was not over when it was taken."""
        return [task for task in self.tasks if not task.is_over(self.taken_at)]


def _upper_bounds(signature: Signature) -> list[int]:
    """Return those of the inputs' first dimensions that have one."""
    bounds = [spec.bounds[0][1] for spec in signature.inputs.values() if spec.bounds]
    return [most for most in bounds if most != DYNAMIC]


def _deadline(task: _Task) -> float:
    return inf if task.deadline is None else task.deadline


def _over() -> DeadlineExceeded:
    return DeadlineExceeded("Run() timeout exceeded while waiting in batching queue")
