"""A worker's end of the channel to its supervisor: when to be ready, when to stop, and which models to serve."""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import queue
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from handlers.channel import Channel
from handlers.configuration import ModelConfig, from_message, models_of
from handlers.settings import Settings
from model_cache.errors import ModelCacheError
from runtime.errors import InferenceError, Overloaded

logger = logging.getLogger(__name__)


class Reload(Protocol):
    @property
    def told(self) -> Sequence[ModelConfig]:
        """What the file that is watched said last."""
        ...

    def __call__(
        self, message: Any, deadline: float | None, agree: Callable[[], None], told: Sequence[ModelConfig]
    ) -> None:
        """
        Args:
            agree: called once all is loaded: it returns if the models are to be replaced.
            told: what the file says where the client has said this.
        """
        ...


class Worker:
    """Joins its supervisor as it is made, and `follow`s it from then on, until it stops."""

    def __init__(self, descriptor: int) -> None:
        end = socket.socket(fileno=descriptor)
        # Whatever we may start is not a worker.
        end.set_inheritable(False)
        self._channel = Channel(end)
        message = self._channel.receive()
        if message is None:
            # Killed before we were here; there is nobody to say so to.
            os._exit(1)
        _, (self.number, self.count, self._config) = message
        self._all_are_loaded = threading.Event()
        self._reload: Reload
        # What waits for an answer, by number. Each is put in and taken out by the one thread that asks.
        self._questions: dict[int, queue.SimpleQueue[tuple[bool, bytes | None]]] = {}
        self._numbers = itertools.count()
        # Whether to go on, for the one replacement that is under way at a time.
        self._verdicts: queue.SimpleQueue[tuple[int, bool]] = queue.SimpleQueue()

    def models(self, settings: Settings) -> tuple[list[ModelConfig], Sequence[ModelConfig]]:
        """Return what the others serve, if a client has had that replaced, or what the settings name.

        And what the file said by then, after which it takes something new to be heeded.
        """
        if self._config is None:
            models = models_of(settings)
            return models, models
        message, told = _unpacked(self._config)
        return from_message(message), told

    def follow(self, reload: Reload, stop: Callable[[], None]) -> None:
        """Do what the supervisor says, in a thread; stop when it says so or has gone."""
        self._reload = reload
        threading.Thread(target=self._follow, args=(reload, stop), name="worker", daemon=True).start()

    def wait_until_all_are_loaded(self) -> None:
        """Say that this one is, and wait for the others: for as long as they take, as clients do."""
        self._channel.send("loaded")
        self._all_are_loaded.wait()

    def replace_models(self, message: Any, deadline: float | None = None) -> None:
        """Have all workers serve what a ModelServerConfig says, or none.

        Raises:
            Overloaded: models are being replaced already, or a worker has died meanwhile.
            InferenceError, ModelCacheError: why a worker cannot serve it.
        """
        number = next(self._numbers)
        answer = self._questions[number] = queue.SimpleQueue()
        try:
            self._channel.send("reload", number, _packed(message, self._reload.told), deadline)
            # The supervisor sees to it that there is an answer in time.
            is_done, error = answer.get()
        except OSError as exc:
            raise Overloaded("the supervisor of this worker has gone") from exc
        finally:
            del self._questions[number]
        if not is_done and error is not None:
            raise pickle.loads(error)
        if not is_done:
            raise Overloaded("the models are being replaced by somebody else, or a worker has died; try again later")

    def _follow(self, reload: Reload, stop: Callable[[], None]) -> None:
        while message := self._channel.receive():
            kind, content = message
            if kind == "stop":
                stop()
            elif kind == "ready":
                self._all_are_loaded.set()
            elif kind == "result":
                question, *answer = content
                if question in self._questions:
                    self._questions[question].put(tuple(answer))
            elif kind == "prepare":
                threading.Thread(target=self._replace, args=(reload, *content), name="reload", daemon=True).start()
            else:
                self._verdicts.put((content[0], kind == "commit"))
        logger.error("the supervisor has gone")
        for question in list(self._questions.values()):
            question.put((False, None))
        stop()

    def _replace(self, reload: Reload, number: int, content: bytes, deadline: float | None) -> None:
        error: Exception | None = None
        try:
            message, told = _unpacked(content)
            reload(message, deadline, partial(self._agree, number), told)
        except (InferenceError, ModelCacheError) as exc:
            error = type(exc)(*exc.args)
        # The others wait for us, whatever it is.
        except Exception as exc:
            logger.exception("cannot replace the models")
            error = Overloaded(f"a worker failed: {type(exc).__name__}")
        # A supervisor that has gone has no use for it.
        with suppress(OSError):
            self._channel.send("ended", number, error is None, pickle.dumps(error))

    def _agree(self, number: int) -> None:
        """Say that all is loaded, and wait until all others have said so.

        Raises:
            Overloaded: one of them could not.
        """
        self._channel.send("prepared", number)
        while True:
            of, is_agreed = self._verdicts.get()
            if of == number and is_agreed:
                return
            if of == number:
                raise Overloaded("another worker could not load the models; they stay as they are")


def _packed(message: Any, told: Sequence[ModelConfig]) -> bytes:
    # Other mappings than dict cannot be pickled.
    models = [model._replace(labels=dict(model.labels)) for model in told]
    return pickle.dumps((message.SerializeToString(), models))


def _unpacked(content: bytes) -> tuple[Any, list[ModelConfig]]:
    from runtime.codecs import schema

    message, told = pickle.loads(content)
    return schema.ModelServerConfig.FromString(message), told
