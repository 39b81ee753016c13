"""Several processes that serve on the same ports, and the one that starts them, restarts them and ends them.

The kernel gives each connection to one of them (SO_REUSEPORT). This one only holds the ports, so that nobody else gets
them. It imports neither numpy nor OpenVINO, and starts its workers as new processes: a fork would inherit half of what
threads were doing.
"""

from __future__ import annotations

import logging
import math
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any, NoReturn

from handlers.agreement import Agreement
from handlers.channel import Channel
from handlers.exits import START_FAILED, STOP_SIGNALS, USAGE
from handlers.limits import cpu_room
from handlers.ports import hold
from handlers.settings import Settings, environment_of_worker
from handlers.survey import About, Party, Survey, Tally, of_metrics, of_statistics

logger = logging.getLogger(__name__)

_HOPELESS = (START_FAILED, USAGE)
PAUSES = (0.1, 0.3, 1.0, 3.0)
"""Seconds before a worker that has died is started anew, the first time and again. If none serves when it dies once
more, all end; otherwise it is tried for ever."""
_LONG_PAUSE = 30.0
SCRAPE_PATIENCE = 1.0
"""Seconds that the metrics of a worker are waited for; then those of before have to do. Prometheus waits for ten."""
_UNLOAD_PATIENCE = 3.0
"""Seconds that a worker may take to have a model leave its memory."""
SETTLED = 60.0
"""Seconds after which a worker's death has nothing to do with its start."""
_GRACE = 3.0
"""Seconds beyond the time that requests have, after which a worker that has not ended is killed."""


def supervise(settings: Settings) -> NoReturn:
    """Start as many workers as the settings say and keep them until SIGTERM or SIGINT, and end the process.

    Raises:
        SettingsError: what is wanted makes no sense with several, or at all.
    """
    settings.require_models()
    settings.require_ports()
    settings.require_workers()
    count = settings.workers or max(1, math.floor(cpu_room()))
    try:
        ports = [hold(address, port) for address, port in settings.addresses()]
    except OSError as exc:
        logger.error("cannot start %d workers: %s", count, exc)
        code = START_FAILED
    else:
        code = _Supervisor(count, settings).run()
        for port in ports:
            port.close()
    logging.shutdown()
    os._exit(code)


class _Worker:
    """One process, from its start until it has been waited for."""

    def __init__(self, number: int, channel: Channel, pid: int) -> None:
        self.number = number
        self.channel = channel
        self.pid = pid
        self.began = time.monotonic()
        self.is_loaded = False
        self.is_over = False
        """Whether it has been waited for. Whoever still knows it then has nobody to tell anything, nor to kill."""
        self.ends_by = math.inf
        """When it is killed if it has not ended, as there is nothing more to hear of it."""

    def tell(self, kind: str, *content: Any) -> None:
        if self.is_over:
            return
        try:
            self.channel.send(kind, *content)
        # It has died, which will be noticed, or it does not read what it is told.
        except OSError as exc:
            logger.warning("worker %d cannot be told anything: %s", self.number, exc)
            self.kill()

    def kill(self) -> None:
        # Until it has been waited for nobody else can have its number.
        if not self.is_over:
            os.kill(self.pid, signal.SIGKILL)


class _Supervisor:
    def __init__(self, count: int, settings: Settings) -> None:
        self._count = count
        self._settings = settings
        self._workers: dict[int, _Worker] = {}
        # When to start those anew that have died, and how often in a row each has.
        self._due: dict[int, float] = {}
        self._deaths: dict[int, int] = {}
        # Whether all have been loaded once.
        self._is_ready = False
        self._is_stopping = False
        self._code = 0
        self._agreement = Agreement(settings.load_timeout)
        # By what they are of.
        self._tallies = {"metrics": Tally(of_metrics), "statistics": Tally(of_statistics)}
        # Those of now, and of workers that have not answered yet. Bounded, as a worker asks only of models that it has.
        self._surveys: dict[About, Survey] = {}
        self._signals: list[int] = []
        self._poll = select.poll()

    def run(self) -> int:
        """Return the exit code."""
        awake, wakes = socket.socketpair()
        for end in (awake, wakes):
            end.setblocking(False)
        self._poll.register(awake, select.POLLIN)
        # Written to by Python whenever a signal comes, so that none gets lost between a look at it and the wait.
        signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        for stop in STOP_SIGNALS:
            signal.signal(stop, self._note)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        try:
            for number in range(1, self._count + 1):
                self._start(number)
        except OSError as exc:
            logger.error("cannot start %d workers: %s", self._count, exc)
            self._stop(START_FAILED)
        while self._workers or (self._due and not self._is_stopping):
            for descriptor, _ in self._poll.poll(self._patience()):
                if descriptor == awake.fileno():
                    awake.recv(4096)
                else:
                    self._hear(descriptor)
            self._look_around()
        # A failed start has had its line.
        if not self._code:
            logger.info("stopped")
        return self._code

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)

    def _look_around(self) -> None:
        now = time.monotonic()
        while self._signals:
            self._heed(self._signals.pop(0))
        self._reap()
        for worker in self._workers.values():
            if worker.ends_by < now:
                logger.warning("worker %d is killed, as it has not ended", worker.number)
                worker.kill()
                worker.ends_by = math.inf
        # Not while models are being replaced: it would begin with those of before.
        if not self._is_stopping and self._agreement.deadline is None:
            for number in [number for number, due in self._due.items() if due <= now]:
                self._start_anew(number)
        if self._agreement.deadline is not None and self._agreement.deadline < now:
            self._agreement.expire()
        for about, survey in list(self._surveys.items()):
            if survey.deadline is not None and survey.deadline < now:
                survey.expire()
            if survey.is_idle:
                del self._surveys[about]

    def _patience(self) -> float | None:
        """Return the milliseconds after which there is something to do even if nothing happens."""
        times = [worker.ends_by for worker in self._workers.values()]
        if self._agreement.deadline is not None:
            times.append(self._agreement.deadline)
        elif not self._is_stopping:
            times += self._due.values()
        times += [survey.deadline for survey in self._surveys.values() if survey.deadline is not None]
        first = min(times, default=math.inf)
        return None if first == math.inf else max(0.0, first - time.monotonic()) * 1000 + 1

    def _start_anew(self, number: int) -> None:
        del self._due[number]
        try:
            self._start(number)
        # As when it dies: there may be processes, descriptors or memory again soon.
        except OSError as exc:
            self._lost(number, f"cannot be started: {exc}")

    def _start(self, number: int) -> None:
        """
        Raises:
            OSError: the system gives no more of what a process needs.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.set_inheritable(True)
            # The same command once more, which knows by this variable that it is one of several.
            environ = environment_of_worker(theirs.fileno())
            try:
                pid = os.posix_spawn(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)
            except OSError:
                ours.close()
                raise
        worker = self._workers[number] = _Worker(number, Channel(ours), pid)
        self._poll.register(ours, select.POLLIN)
        worker.tell("start", number, self._count, self._agreement.config)
        logger.info("worker %d of %d is process %d", number, self._count, pid)

    def _hear(self, descriptor: int) -> None:
        worker = next((worker for worker in self._workers.values() if worker.channel.fileno() == descriptor), None)
        if worker is None:
            return
        message = worker.channel.receive()
        if message is None:
            self._poll.unregister(descriptor)
            worker.ends_by = time.monotonic() + _GRACE
            return
        kind, content = message
        if kind == "loaded":
            self._loaded(worker)
        elif kind == "reload":
            question, config, deadline = content
            answer = partial(worker.tell, "result", question)
            self._agreement.propose(config, deadline, self._workers.values(), answer)
        elif kind == "ask":
            question, about = content
            self._survey(about).ask(partial(worker.tell, "result", question))
        elif kind == "reply":
            about, reply = content
            if about in self._surveys:
                self._surveys[about].answered(worker, reply)
        elif kind == "prepared":
            self._agreement.prepared(worker, *content)
        else:
            self._agreement.ended(worker, *content)

    def _survey(self, about: About) -> Survey:
        if about not in self._surveys:
            loads = self._settings.load_timeout + _GRACE
            patience, result = {
                "metrics": (SCRAPE_PATIENCE, self._tallies["metrics"].total),
                "statistics": (SCRAPE_PATIENCE, self._tallies["statistics"].total),
                "refresh": (loads, self._refreshed),
                "load": (loads, _outcomes),
                "unload": (_UNLOAD_PATIENCE, _outcomes),
            }[about[0]]
            self._surveys[about] = Survey(about, patience, self._workers.values, result)
        return self._surveys[about]

    def _refreshed(self, answers: Mapping[Party, Any], silent: int) -> tuple[list[Any], int]:
        """Return what the workers say that have looked at the file anew; each says whether it has changed, or why not.

        What a client has had replaced is forgotten if they all serve what the file says now.
        """
        if self._settings.model_config_file and not silent and all(error is None for _, error in answers.values()):
            self._agreement.config = None
        return _outcomes(answers, silent)

    def _loaded(self, worker: _Worker) -> None:
        worker.is_loaded = True
        if self._is_ready:
            worker.tell("ready")
        elif len(self._workers) == self._count and all(worker.is_loaded for worker in self._workers.values()):
            self._is_ready = True
            for each in self._workers.values():
                each.tell("ready")
            logger.info("all %d workers are ready", self._count)

    def _heed(self, number: int) -> None:
        if self._is_stopping:
            # Whoever asks twice does not want to wait for requests.
            for worker in self._workers.values():
                worker.kill()
            logging.shutdown()
            os._exit(128 + number)
        self._stop(0)

    def _stop(self, code: int) -> None:
        self._code = code
        self._is_stopping = True
        for worker in self._workers.values():
            worker.tell("stop")
            worker.ends_by = time.monotonic() + self._settings.shutdown_timeout + _GRACE

    def _reap(self) -> None:
        for worker in list(self._workers.values()):
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._bury(worker, os.waitstatus_to_exitcode(status))

    def _bury(self, worker: _Worker, code: int) -> None:
        del self._workers[worker.number]
        # Unless it has been done as there was nothing more to hear.
        with suppress(KeyError):
            self._poll.unregister(worker.channel.fileno())
        worker.channel.close()
        worker.is_over = True
        self._agreement.gone(worker)
        for tally in self._tallies.values():
            tally.gone(worker)
        for survey in self._surveys.values():
            survey.gone(worker)
        if self._is_stopping:
            return
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        if code in _HOPELESS and not self._is_ready:
            logger.error("worker %d cannot start: %s", worker.number, how)
            self._stop(code)
            return
        if time.monotonic() - worker.began > SETTLED:
            self._deaths.pop(worker.number, None)
        self._lost(worker.number, f"has died by {how}")

    def _lost(self, number: int, how: str) -> None:
        """Have another one started in its place, after a pause; or end all, if none of them serves."""
        deaths = self._deaths[number] = self._deaths.get(number, 0) + 1
        if deaths > len(PAUSES) and not any(other.is_loaded for other in self._workers.values()):
            logger.error("worker %d %s, time %d in a row; all end", number, how, deaths)
            self._stop(START_FAILED)
            return
        pause = PAUSES[deaths - 1] if deaths <= len(PAUSES) else _LONG_PAUSE
        logger.error("worker %d %s; another one starts in %.1f s", number, how, pause)
        self._due[number] = time.monotonic() + pause


def _outcomes(answers: Mapping[Party, Any], silent: int) -> tuple[list[Any], int]:
    return list(answers.values()), silent
