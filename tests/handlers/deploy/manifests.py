"""Manifests for tests: as files have them, and as they are when read."""

from __future__ import annotations

import io
from typing import Any

from ruamel.yaml import YAML

from handlers.deploy.manifest import Manifest
from handlers.deploy.parse import parse

IMAGE = f"123456789012.dkr.ecr.eu-west-1.amazonaws.com/decant@sha256:{'ab' * 32}"
DIGITS = {"name": "digits", "base_path": "s3://my-models/vision/digits"}


def fields(*models: dict[str, Any], **others: Any) -> dict[str, Any]:
    """A manifest's, with what must be there."""
    return {"name": "digits", "image": IMAGE, "models": list(models or (DIGITS,)), **others}


def manifest(*models: dict[str, Any], **others: Any) -> Manifest:
    return parse(text(fields(*models, **others)))


def text(document: Any) -> str:
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(document, stream)
    return stream.getvalue()
