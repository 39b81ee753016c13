"""A worker's end of the channel to its supervisor: when to be ready, when to stop, and which models to serve."""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import queue
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from handlers.channel import Channel
from handlers.configuration import Configuration, from_message, models_of
from handlers.settings import Settings
from model_cache.errors import LoadPending, ModelCacheError
from runtime.errors import InferenceError, Overloaded

if TYPE_CHECKING:
    from runtime.metric_families import Snapshot
    from runtime.open_inference.statistics import Counts
    from runtime.server import ModelServer

logger = logging.getLogger(__name__)


class Reload(Protocol):
    @property
    def told(self) -> Configuration:
        """What the file that is watched said last."""
        ...

    def __call__(self, message: Any, deadline: float | None, agree: Callable[[], None], told: Configuration) -> None:
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
        self._questions: dict[int, queue.SimpleQueue[tuple[Any, ...]]] = {}
        self._numbers = itertools.count()
        # What this one answers where all are asked, by what about.
        self._answers: dict[str, Callable[..., Any]] = {}
        # Whether to go on, for the one replacement that is under way at a time.
        self._verdicts: queue.SimpleQueue[tuple[int, bool]] = queue.SimpleQueue()

    def models(self, settings: Settings) -> tuple[Configuration, Configuration]:
        """Return what the others serve, if a client has had that replaced, or what the settings name.

        And what the file said by then, after which it takes something new to be heeded.
        """
        if self._config is None:
            configuration = models_of(settings)
            return configuration, configuration
        message, told = _unpacked(self._config)
        known = {(model.name, model.base_path): model for model in told.models}
        models = [
            # What a message cannot say is as the file has it.
            known.get((model.name, model.base_path), model)._replace(policy=model.policy, labels=model.labels)
            for model in from_message(message)
        ]
        # What is wrong with models of the file is no client's concern who has named others.
        return Configuration(models, metrics=told.metrics), told

    def follow(
        self,
        reload: Reload,
        stop: Callable[[], None],
        refresh: Callable[[], bool] | None = None,
        snapshot: Callable[[], Snapshot] | None = None,
        server: ModelServer | None = None,
    ) -> None:
        """Do what the supervisor says, in a thread; stop when it says so or has gone.

        Args:
            refresh: what this worker does where one of them has been asked for `refresh`.
            snapshot: its part of what `gather` returns; None if metrics are off.
            server: whose models are loaded and unloaded where one of them has been asked for that.
        """
        self._reload = reload
        if refresh is not None:
            self._answers["refresh"] = partial(_outcome, refresh)
        if snapshot is not None:
            self._answers["metrics"] = snapshot
        if server is not None:
            self._answers["load"] = partial(_outcome, server.load)
            self._answers["unload"] = partial(_outcome, server.unload)
            self._answers["statistics"] = partial(_counts, server)
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

    def refresh(self) -> bool:
        """Have all workers look anew at what they are to serve; return whether anything has changed for one of them.

        Raises:
            Overloaded: one of them has not done so in time.
            InferenceError, ModelCacheError: why one could not.
        """
        outcomes = self._have_done("have not looked at their models", "refresh")
        return any(outcomes)

    def load(self, name: str, until: float | None) -> None:
        """Have all workers load a model, as `runtime.open_inference.repository.Peers`.

        Raises:
            LoadPending: it is not done by then; it goes on.
            Overloaded: one of them has not done so in time.
            InferenceError, ModelCacheError: why one could not.
        """
        self._have_done("have not loaded the model", "load", name, until=until)

    def unload(self, name: str) -> None:
        """Have a model leave the memory of all workers.

        Raises:
            Overloaded, InferenceError, ModelCacheError: as `load`. Others may have done it.
        """
        self._have_done("have not unloaded the model", "unload", name)

    def statistics(self) -> Counts:
        """Return what all workers have counted, added up; of those that do not answer what they have said before."""
        total: Counts = self._ask("statistics")
        return total

    def gather(self) -> Snapshot:
        """Return the metrics of all workers, added up; of those that do not answer what they have said before."""
        total: Snapshot = self._ask("metrics")
        return total

    def _have_done(self, undone: str, *about: str, until: float | None = None) -> list[Any]:
        """Have all workers do something; return what each returns.

        Args:
            undone: what is said of those that have not.
        """
        outcomes, silent = self._ask(*about, until=until)
        for _, error in outcomes:
            if error is not None:
                raise pickle.loads(error)
        if silent:
            raise Overloaded(f"{silent} of {self.count} workers {undone} in time")
        return [found for found, _ in outcomes]

    def _ask(self, *about: str, until: float | None = None) -> Any:
        number = next(self._numbers)
        answer = self._questions[number] = queue.SimpleQueue()
        try:
            self._channel.send("ask", number, about)
            # The supervisor sees to it that there is an answer in time.
            result = answer.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
        except queue.Empty:
            raise LoadPending("not all workers have done it yet; try again later") from None
        except OSError as exc:
            raise Overloaded("the supervisor of this worker has gone") from exc
        finally:
            del self._questions[number]
        # What is said where nobody answers any more.
        if len(result) != 1:
            raise Overloaded("the supervisor of this worker has gone")
        return result[0]

    def _answer(self, about: tuple[str, ...]) -> None:
        what, *names = about
        found: Any = None
        try:
            found = self._answers[what](*names)
        # The others wait for us, whatever it is.
        except Exception:
            logger.exception("this worker has no answer about %s", what)
        # A supervisor that has gone has no use for it.
        with suppress(OSError):
            self._channel.send("reply", about, found)

    def _follow(self, reload: Reload, stop: Callable[[], None]) -> None:
        while message := self._channel.receive():
            kind, content = message
            if kind == "stop":
                stop()
            elif kind == "ready":
                self._all_are_loaded.set()
            elif kind == "result":
                question, *answer = content
                # Nobody may wait for it any more.
                if waiting := self._questions.get(question):
                    waiting.put(tuple(answer))
            elif kind == "ask":
                threading.Thread(target=self._answer, args=content, name="answer", daemon=True).start()
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
            error = _failed(exc)
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


def _counts(server: ModelServer) -> Counts:
    # Not before somebody asks, as what counts is imported then.
    return server.statistics.counts()


def _outcome(do: Callable[..., object], *names: str) -> tuple[object, bytes | None]:
    """Return what it returns, or the error, pickled."""
    try:
        return do(*names), None
    except (InferenceError, ModelCacheError) as exc:
        return None, pickle.dumps(type(exc)(*exc.args))
    # The others wait for us, whatever it is, and are not to take us for one that is slow.
    except Exception as exc:
        logger.exception("cannot do what all workers are to do")
        return None, pickle.dumps(_failed(exc))


def _failed(exc: Exception) -> Overloaded:
    return Overloaded(f"a worker failed: {type(exc).__name__}")


def _packed(message: Any, told: Configuration) -> bytes:
    # Other mappings than dict cannot be pickled.
    models = [model._replace(labels=dict(model.labels)) for model in told.models]
    portable = told._replace(models=models, rejected=dict(told.rejected))
    return pickle.dumps((message.SerializeToString(), portable))


def _unpacked(content: bytes) -> tuple[Any, Configuration]:
    from runtime.codecs import schema

    message, told = pickle.loads(content)
    return schema.ModelServerConfig.FromString(message), told
