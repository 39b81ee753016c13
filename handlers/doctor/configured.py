"""The settings among each other, and the file of models that they name."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from handlers.configuration import Configuration, ModelConfig, models_of
from handlers.doctor.finding import Findings, Site, ok, problem, warning
from handlers.eager import require_preloaded
from handlers.settings import SettingsError
from model_cache.errors import ModelCacheError

_MEND = "decant serve would not start; decant serve --help says what each setting takes"


def check_settings(site: Site) -> Findings:
    requirements = [site.settings.require_batching]
    if site.platform.listens:
        requirements.append(site.settings.require_ports)
    if site.settings.workers != 1:
        requirements.append(site.settings.require_workers)
    is_good = True
    for require in requirements:
        try:
            require()
        except SettingsError as exc:
            is_good = False
            yield problem("settings", "settings", str(exc), _MEND)
    if is_good:
        yield ok("settings", "settings", "they go together")
    if site.settings.metrics_enable and find_spec("prometheus_client") is None:
        detail = "metrics_enable is given, and prometheus-client is not installed"
        yield problem("settings.metrics", "metrics", detail, "pip install prometheus-client")


def check_models(site: Site, models: list[ModelConfig]) -> Findings:
    """Read the configuration, and append what it has to ``models``."""
    if not site.settings.model_path and not _names_models(site):
        detail = "none is given: only the place is looked at"
        yield warning("models", "models", detail, "give the same flags and variables as to decant serve")
        return
    try:
        found = models_of(site.settings)
        require_preloaded(site.settings, found)
    except SettingsError as exc:
        yield problem("models", "models", str(exc), _MEND)
        return
    except ModelCacheError as exc:
        yield problem("models", "models", str(exc), "see what is said of its storage, and check the file's URL")
        return
    models.extend(found.models)
    yield from _described(found)


def _names_models(site: Site) -> bool:
    return bool(site.settings.given([name for name in _SOURCES if hasattr(site.settings, name)]))


_SOURCES = ("model_config_file", "model_config")


def _described(found: Configuration) -> Findings:
    for name, reason in found.rejected.items():
        advice = "mend its entry: the others are served without it"
        yield problem("models.rejected", f"model {name[:100]}", f"it is rejected: {reason}", advice)
    if found.models:
        yield ok("models", "models", _names(found.models))
    elif not found.rejected:
        yield warning("models", "models", "the file has none", "add some; it is read again while Decant serves")


def _names(models: Sequence[ModelConfig]) -> str:
    names = [model.name for model in models]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{len(names)}: {', '.join(names[:5])}{more}"
