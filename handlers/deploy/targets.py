"""The platforms that files can be rendered for: each is a module with ``render(manifest) -> {file name: text}``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import cast

from handlers.deploy.manifest import Manifest

Render = Callable[[Manifest], Mapping[str, str]]
"""Returns the texts of files by name, or raises `handlers.deploy.parse.ManifestError` for what the platform cannot."""

TARGETS: Mapping[str, str] = {
    "lambda": "AWS Lambda, as a template of AWS SAM",
    "serverless": "AWS Lambda, for the Serverless Framework or osls",
    "terraform": "AWS Lambda, as a Terraform module and its variables",
    "cloud-run": "Google Cloud Run: the service, and the commands for its account and rights",
    "container-apps": "Azure Container Apps: Bicep with its parameters",
    "knative": "a Knative Service",
    "helm": "the chart and its values, for any Kubernetes",
    "kserve": "a ClusterServingRuntime and an InferenceService for each model",
    "compose": "docker compose",
}
"""What each is, by the name that ``--target`` takes."""

NEXT: Mapping[str, str] = {
    "lambda": "sam deploy --template-file {directory}/template.yaml --config-file samconfig.toml",
    "serverless": "cd {directory} && npx osls deploy",
    "terraform": "cd {directory} && terraform init && terraform apply",
    "cloud-run": "{directory}/deploy.sh",
    "container-apps": "{directory}/deploy.sh",
    "knative": "{directory}/deploy.sh",
    "helm": "helm upgrade --install {name} {directory}/chart --values {directory}/values.yaml",
    "kserve": "kubectl apply -f {directory}",
    "compose": "docker compose --file {directory}/compose.yaml up",
}
"""What to type when its files are there: in ``directory``, for the service ``name``."""


def renderer(target: str) -> Render:
    module = importlib.import_module(f"handlers.deploy.to_{target.replace('-', '_')}")
    return cast(Render, module.render)
