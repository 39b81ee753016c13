"""What a manifest is as a function on AWS Lambda, whichever tool deploys it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from handlers.deploy.access import aws_statements, partition_of, place
from handlers.deploy.environment import environment
from handlers.deploy.manifest import Manifest
from handlers.deploy.parse import ManifestError

MEMORY = range(128, 10_240 + 1)
STORAGE = range(512, 10_240 + 1)
TIMEOUT = range(1, 900 + 1)
MAX_ENVIRONMENT = 4096
"""Bytes of names and values."""
_IMAGE = re.compile(
    r"(?P<repository>[0-9]{12}\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(\.cn)?/(?P<name>[a-z0-9._/-]+))"
    r"(:(?P<tag>[\w.-]+))?(@sha256:[0-9a-f]{64})?"
)


class Function(NamedTuple):
    name: str
    image: str
    """By its digest; empty if the manifest has none, as a tag would be looked at once and never again."""
    repository: str
    find_image: str
    """A command that says the digest, for comments."""
    region: str
    architecture: str
    memory: int
    storage: int
    timeout: int
    reserved: int
    """Instances at most; 0 for no such limit."""
    provisioned: int
    url_auth: str
    environment: Mapping[str, str]
    statements: Sequence[dict[str, Any]]
    """Of its role, for the models; none if all are in the image."""

    def about_the_digest(self) -> list[str]:
        """Return the lines of a comment that say what ``$digest`` is in the one before; none if the image has it."""
        if self.image:
            return []
        return ["where the digest of the image is what this says:", "", f"    {self.find_image}", ""]


def function(manifest: Manifest) -> Function:
    """Return the function.

    Raises:
        ManifestError: Lambda has no such functions, or its role cannot read where the models are.
    """
    image = _IMAGE.fullmatch(manifest.image)
    if image is None:
        raise ManifestError(
            f"image is {manifest.image}; want ACCOUNT.dkr.ecr.REGION.amazonaws.com/REPOSITORY@sha256:DIGEST, as Lambda "
            "takes images from ECR alone"
        )
    _check(manifest, image["region"])
    variables = environment(manifest)
    _check_size(variables)
    repository, tag = image["repository"], image["tag"] or "latest"
    partition = partition_of(image["region"])
    return Function(
        name=manifest.name,
        image=f"{repository}@{manifest.image.partition('@')[2]}" if "@" in manifest.image else "",
        repository=repository,
        find_image=f"aws ecr describe-images --region {image['region']} --repository-name {image['name']} "
        f"--image-ids imageTag={tag} --query 'imageDetails[0].imageDigest' --output text",
        region=image["region"],
        architecture="x86_64" if manifest.architecture == "amd64" else "arm64",
        memory=manifest.memory,
        storage=manifest.disk,
        timeout=manifest.timeout,
        reserved=manifest.max_instances if manifest.is_limited else 0,
        provisioned=manifest.min_instances,
        url_auth="NONE" if manifest.public else "AWS_IAM",
        environment=variables,
        statements=aws_statements(manifest, partition),
    )


def _check(manifest: Manifest, region: str) -> None:
    if manifest.region not in ("", region):
        raise ManifestError(
            f"region is {manifest.region} and the image's is {region}; want the same, as Lambda takes images of its own"
        )
    if manifest.grpc:
        raise ManifestError("grpc is true; want false, as Lambda passes no gRPC")
    for name, value, unit, allowed in (
        ("memory", manifest.memory, " MiB", MEMORY),
        ("disk", manifest.disk, " MiB", STORAGE),
        ("timeout", manifest.timeout, " s", TIMEOUT),
    ):
        if value not in allowed:
            raise ManifestError(f"{name} is {value}{unit}; want {allowed.start} to {allowed.stop - 1} on Lambda")
    for model in manifest.models:
        if place(model.base_path).scheme not in ("s3", ""):
            raise ManifestError(
                f"model {model.name} is at {model.base_path}; want s3://, or a directory of the image: "
                "a function's role has no rights in other clouds"
            )


def _check_size(variables: Mapping[str, str]) -> None:
    size = sum(len(name.encode()) + len(text.encode()) for name, text in variables.items())
    if size > MAX_ENVIRONMENT:
        raise ManifestError(
            f"the models and settings are {size} bytes of environment variables; want {MAX_ENVIRONMENT} at most on "
            "Lambda. Put the models into a config.json in the bucket, and deploy Decant's own serverless.yml, "
            "infra/lambda/template.yaml or infra/lambda/terraform with its name (docs/deploy/lambda.md, Several models)"
        )
