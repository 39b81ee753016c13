"""Running the checks: each in a thread of its own, with an end to its time, and none of them can end the others.

A check that hangs is left behind, in a thread that ends with the process; that it hangs is what is reported of it, and
so is an exception.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

from handlers.configuration import ModelConfig
from handlers.doctor import (
    around,
    certificates,
    configured,
    credentials,
    directories,
    endpoints,
    engine,
    listening,
    packages,
    process,
    processors,
    room,
    stores,
    variables,
)
from handlers.doctor.finding import Finding, Findings, Level, Site
from model_cache.storage import BACKENDS, StorageOptions

PATIENCE = 10.0
"""Seconds that a check has."""
TOTAL = 60.0
"""Seconds that all of them have."""
_STORE_PATIENCE = 20.0
_CONNECT, _READ = 3.0, 8.0
"""Seconds for one try of a store: less than a server has, so that there is time to tell of it."""
_ENGINE_SHARE = 0.7
"""Of the time for all checks; its process is ended after that, as nobody would if we ended first."""
_PARALLEL = 8
_STORES = BACKENDS.keys() - {"", "file"}
MAX_MODELS = 64
"""Models that are looked at. A file may have ten thousand, and what is wrong with one is so with most."""


class Check(NamedTuple):
    id: str
    title: str
    run: Callable[[], Findings]
    patience: float = PATIENCE
    level: Level = Level.WARNING
    """Of a check that does not end: of one that waits for a store that is the answer."""


class Examination(NamedTuple):
    findings: Sequence[Finding]
    is_complete: bool
    """Whether nothing is left behind that still waits."""


def examine(site: Site, total: float = TOTAL, patience: float | None = None) -> Examination:
    """Run all checks.

    Args:
        total: seconds that all of them have.
        patience: seconds that each has at most; None for what is usual.
    """
    crew = Crew(time.monotonic() + total, patience)
    models: list[ModelConfig] = []
    stored: list[stores.Stored] = []
    engines: list[engine.Engine] = []
    configuration = crew.start([_check("models", "models", partial(configured.check_models, site, models), store=True)])
    of_place = crew.start(list(_of_place(site, engines, total * _ENGINE_SHARE)))
    of_configuration = crew.collect(configuration)
    # What cannot be written is nothing to models that are read where they are.
    fetches = not models or any(urlsplit(model.base_path).scheme not in ("", "file") for model in models)
    of_stores = crew.start([*_of_disk(site, fetches=fetches), *_of_stores(site, models, stored)])
    findings = [*crew.collect(of_place), *of_configuration, *crew.collect(of_stores)]
    findings += crew.collect(crew.start(list(_of_both(site, stored, engines))))
    return Examination(findings, crew.is_complete)


def _check(id: str, title: str, run: Callable[[], Findings], *, store: bool = False) -> Check:
    return Check(id, title, run, _STORE_PATIENCE, Level.PROBLEM) if store else Check(id, title, run)


def _of_place(site: Site, engines: list[engine.Engine], most: float) -> Iterator[Check]:
    """Yield what needs no model; ``most`` is what OpenVINO has to start, in seconds."""
    yield _check("platform", "platform", partial(around.check_platform, site))
    yield _check("variables", "variables", partial(variables.check_variables, site))
    yield _check("settings", "settings", partial(configured.check_settings, site))
    yield _check("packages", "packages", partial(packages.check_packages, site))
    yield _check("home", "HOME", partial(directories.check_home, site))
    yield _check("log", "log file", partial(directories.check_log, site))
    yield _check("memory.limit", "memory", partial(room.check_memory, site))
    yield _check("cpu.quota", "CPUs", partial(processors.check_cpu, site))
    yield _check("cpu.instructions", "instructions", partial(process.check_instructions, site))
    yield _check("process", "process", partial(process.check_process, site))
    yield _check("ports", "ports", partial(listening.check_ports, site))
    yield _check("tls", "TLS", partial(certificates.check_tls, site))
    yield _check("clock", "clock", partial(endpoints.check_clock, site))
    yield Check(
        "openvino",
        "OpenVINO",
        partial(_engine, site, engines, min(engine.TIMEOUT, most)),
        engine.TIMEOUT + PATIENCE,
        Level.PROBLEM,
    )


def _of_disk(site: Site, *, fetches: bool) -> Iterator[Check]:
    """Yield what looks at where files are kept.

    Args:
        fetches: whether any are: without, nothing there is a problem.
    """
    for id, title, run in (
        ("tmp", "temporary files", directories.check_temporary),
        ("cache.directory", "cache directory", directories.check_cache_directory),
        ("disk.room", "room on disk", room.check_disk),
    ):
        yield _check(id, title, partial(run, site) if fetches else partial(_of_little_use, run, site))


def _of_little_use(run: Callable[[Site], Findings], site: Site) -> Findings:
    for found in run(site):
        if found.level is Level.PROBLEM:
            detail = f"{found.detail}; models are read where they are, and served without"
            found = found._replace(level=Level.WARNING, detail=detail)
        yield found


def _engine(site: Site, engines: list[engine.Engine], patience: float) -> Findings:
    try:
        found = engine.probe(patience)
    except engine.EngineFailed as exc:
        yield engine.failed(site, str(exc))
        return
    engines.append(found)
    yield from engine.describe(site, found)


def _of_stores(site: Site, models: Sequence[ModelConfig], stored: list[stores.Stored]) -> Iterator[Check]:
    """Yield what asks the stores that models are in, and the file that names them."""
    options = dataclasses.replace(site.settings.storage_options(), connect_timeout=_CONNECT, read_timeout=_READ)
    urls = [model.base_path for model in models]
    if "://" in site.settings.model_config_file:
        urls.append(site.settings.model_config_file)
    schemes = {scheme: url for url in reversed(urls) if (scheme := urlsplit(url).scheme) in _STORES}
    yield _check("proxies", "proxies", partial(endpoints.check_proxies, site, list(schemes)))
    for scheme, url in sorted(schemes.items()):
        yield _check("packages.storage", f"client of {scheme}://", partial(_clients, site, scheme))
        run = partial(credentials.check_credentials, site, scheme, url, options)
        yield _check("credentials", f"credentials for {scheme}://", run, store=True)
    for endpoint in dict.fromkeys(endpoints.endpoint_of(url, options) for url in urls):
        if endpoint is not None:
            run = partial(endpoints.check_endpoint, site, endpoint)
            yield _check("endpoint", f"endpoint {endpoint.url}", run, store=True)
    for model in models[:MAX_MODELS]:
        run = partial(_model, site, model, options, stored)
        yield _check("model.list", f"model {model.name}", run, store=True)
    if len(models) > MAX_MODELS:
        yield _check("model.list", "models", partial(_not_all, len(models)))


def _clients(site: Site, scheme: str) -> Findings:
    missing = packages.clients(site, scheme)
    if missing is not None:
        yield missing


def _model(site: Site, model: ModelConfig, options: StorageOptions, stored: list[stores.Stored]) -> Findings:
    yield from stores.check_model(site, model, options, stored)
    yield from processors.check_model_properties(site, model)


def _not_all(count: int) -> Findings:
    detail = f"{MAX_MODELS} of {count} were looked at"
    yield Finding("model.list", Level.OK, "models", detail, "give one with --model_path to have it looked at")


def _of_both(site: Site, stored: Sequence[stores.Stored], engines: Sequence[engine.Engine]) -> Iterator[Check]:
    """Yield what compares the models with the place."""
    if not stored:
        return
    yield _check("memory.models", "models in memory", partial(room.check_fit, site, stored))
    for found in engines:
        yield _check("openvino.format", "formats", partial(room.check_formats, stored, found.frontends))
        run = partial(room.check_compiled, site, stored, found.version, found.requirements)
        yield _check("compiled", "compiled ahead", run)


class _Running:
    """A check that was started, and what it has found so far."""

    def __init__(self, check: Check) -> None:
        self.check = check
        self.findings: list[Finding] = []
        self.has_ended = threading.Event()
        self.began: float | None = None

    def run(self) -> None:
        self.began = time.monotonic()
        check = self.check
        try:
            for finding in check.run():
                self.findings.append(finding)
        # Whatever is wrong with the place, or with the check: the others are worth as much without it.
        except Exception as exc:  # noqa: BLE001
            detail = f"it could not be checked: {type(exc).__name__}: {exc}"
            advice = "mend what is said, or report it if it is Decant's"
            self.findings.append(Finding(f"{check.id}.failed", Level.WARNING, check.title, detail, advice))
        finally:
            self.has_ended.set()


class Crew:
    def __init__(self, deadline: float, patience: float | None) -> None:
        self._deadline = deadline
        self._patience = patience
        self.is_complete = True

    def start(self, checks: Sequence[Check]) -> list[_Running]:
        running = [_Running(check) for check in checks]
        turns = iter(running)
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    each = next(turns, None)
                if each is None:
                    return
                each.run()

        for number in range(min(_PARALLEL, len(running))):
            try:
                threading.Thread(target=work, name="doctor", daemon=True).start()
            # There may be no more threads, which is for a check to say: then all is done by those there are, or here.
            except RuntimeError:
                if not number:
                    work()
                break
        return running

    def collect(self, running: Sequence[_Running]) -> list[Finding]:
        """Wait for checks as long as each may take, and return what they have found."""
        found: list[Finding] = []
        for each in running:
            found += self._of(each)
        return found

    def _of(self, each: _Running) -> list[Finding]:
        patience = each.check.patience if self._patience is None else min(self._patience, each.check.patience)
        while not each.has_ended.is_set():
            now = time.monotonic()
            # Those that wait for a thread have not begun, and their time has not either.
            end = self._deadline if each.began is None else min(self._deadline, each.began + patience)
            if now >= end:
                self.is_complete = False
                return [*each.findings, _unanswered(each, now)]
            each.has_ended.wait(min(end - now, 0.1))
        return each.findings


def _unanswered(each: _Running, now: float) -> Finding:
    check = each.check
    if each.began is None:
        detail = "it was not begun: the time for all checks was over"
        return Finding(f"{check.id}.unanswered", Level.WARNING, check.title, detail, "ask for more time with --timeout")
    detail = f"no answer after {now - each.began:.0f} s; it was given up"
    advice = "a mount that hangs does this, and a machine without CPU time"
    if check.level is Level.PROBLEM:
        advice = "see what is said of its endpoint; a firewall or proxy that drops what it should refuse does this"
    return Finding(f"{check.id}.unanswered", check.level, check.title, detail, advice)
