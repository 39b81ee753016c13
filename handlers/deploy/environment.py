"""What a manifest's models and settings are as variables of Decant's, which every platform can give a container."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from handlers.deploy.access import places
from handlers.deploy.manifest import Manifest, Model
from handlers.settings import PREFIX


def environment(manifest: Manifest) -> dict[str, str]:
    """Return the variables by name: the models', the storage account's, and the settings in their order.

    One model is said as flags would; several are one variable with the text of a configuration.
    """
    variables = {PREFIX + name.upper(): text for name, text in flags(manifest).items()}
    if any(place.scheme == "az" for place in places(manifest)) and manifest.azure_account:
        # The Azure SDK's, and no setting of Decant's.
        variables["AZURE_STORAGE_ACCOUNT"] = manifest.azure_account
    return variables


def flags(manifest: Manifest) -> dict[str, str]:
    """Return the models and the settings as flags would say them, by the flags' names without dashes."""
    return {**_models(manifest), **manifest.settings}


def config(manifest: Manifest) -> dict[str, Any]:
    """Return the models as OpenVINO Model Server's config.json has them."""
    return {"model_config_list": [{"config": _entry(model)} for model in manifest.models]}


def _models(manifest: Manifest) -> Mapping[str, str]:
    (model, *others) = manifest.models
    # A setting holds for all models, and what the one model says itself goes before.
    if others or manifest.settings.keys() & model.options.keys():
        return {"model_config": compact(config(manifest))}
    options = {name: _as_flag(value) for name, value in model.options.items()}
    return {"model_name": model.name, "model_path": model.base_path, **options}


def _entry(model: Model) -> dict[str, Any]:
    return {"name": model.name, "base_path": model.base_path, **model.options}


def _as_flag(value: object) -> str:
    if isinstance(value, str):
        return value
    return compact(value)


def compact(value: object) -> str:
    """Return JSON without spaces: Lambda takes 4 KB of variables in all."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
