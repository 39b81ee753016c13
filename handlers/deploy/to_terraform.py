"""AWS Lambda by Terraform: the module, and a configuration that uses it with a manifest's values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from handlers.deploy import templates
from handlers.deploy.access import place
from handlers.deploy.lambda_function import Function, function
from handlers.deploy.manifest import Manifest

MODULE = "lambda/terraform"
_OUTPUTS = ("lambda_function_name", "lambda_function_url", "lambda_alias_arn", "lambda_role_arn")


def render(manifest: Manifest) -> Mapping[str, str]:
    """Return main.tf.json and, below ``decant/``, the module.

    Raises:
        ManifestError: Lambda has no such functions.
    """
    made = function(manifest)
    files = sorted((templates.ROOT / MODULE).rglob("*.tf"))
    names = [path.relative_to(templates.ROOT / MODULE).as_posix() for path in files]
    module = {f"decant/{name}": templates.text(f"{MODULE}/{name}") for name in names}
    return {"main.tf.json": f"{json.dumps(_main(manifest, made), indent=2, ensure_ascii=False)}\n", **module}


def _main(manifest: Manifest, made: Function) -> dict[str, Any]:
    main: dict[str, Any] = {
        "//": _heading(made),
        "provider": {"aws": {"region": made.region}},
        "module": {"decant": {"source": "./decant", **_arguments(manifest, made)}},
        "output": {name: {"value": f"${{module.decant.{name}}}"} for name in _OUTPUTS},
    }
    if not made.image:
        description = f"The image by its digest: {made.repository}@sha256:…"
        main["variable"] = {"image_uri": {"type": "string", "description": description}}
    return main


def _heading(made: Function) -> list[str]:
    lines = ["Decant on AWS Lambda. In this directory: terraform init && terraform apply"]
    if not made.image:
        lines += [
            f"with -var image_uri={made.repository}@$digest, where the digest of the image is what this says:",
            made.find_image,
        ]
    if made.reserved:
        lines.append(
            "New accounts have too few instances to reserve any: want reserved_concurrent_executions of -1 there."
        )
    return lines


def _arguments(manifest: Manifest, made: Function) -> dict[str, Any]:
    return {
        "function_name": made.name,
        "image_uri": made.image or "${var.image_uri}",
        "models": {model.name: _literal(_where(model.base_path)) for model in manifest.models},
        "environment_variables": {name: _literal(text) for name, text in made.environment.items()},
        "architectures": [made.architecture],
        "memory_size": made.memory,
        "ephemeral_storage_size": made.storage,
        "timeout": made.timeout,
        "reserved_concurrent_executions": made.reserved or -1,
        "provisioned_concurrent_executions": made.provisioned or -1,
        "authorization_type": made.url_auth,
    }


def _where(base_path: str) -> str:
    found = place(base_path)
    return base_path if found.scheme else found.prefix


def _literal(text: str) -> str:
    """Return what Terraform reads as this text, with nothing in it to be filled in."""
    return text.replace("${", "$${").replace("%{", "%%{")
