"""What must be readable for a manifest's models to be served, and the policies that allow that and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, cast
from urllib.parse import unquote, urlsplit

from handlers.deploy.manifest import Manifest

Scheme = Literal["s3", "gs", "az", ""]
_PARTITIONS = (("cn-", "aws-cn"), ("us-gov-", "aws-us-gov"))


class Place(NamedTuple):
    scheme: Scheme
    """Empty for a directory."""
    bucket: str
    """Or Azure's container; empty for a directory."""
    prefix: str
    """Of blobs, without a slash at either end; empty for a whole bucket. A directory's absolute path."""


def place(base_path: str) -> Place:
    """Return where a model is."""
    url = urlsplit(base_path)
    if url.scheme in ("", "file"):
        return Place("", "", unquote(url.path) if url.scheme else base_path)
    scheme = "az" if url.scheme == "azure" else url.scheme
    # As the storages have it: ? and # are characters of a key like others.
    bucket, _, prefix = base_path.partition("://")[2].partition("/")
    return Place(cast(Scheme, scheme), bucket, prefix.strip("/"))


def places(manifest: Manifest) -> list[Place]:
    """Return where models are, in order, each once, and none that is within another."""
    found = list(dict.fromkeys(place(model.base_path) for model in manifest.models))
    return [one for one in found if not any(_is_within(one, other) for other in found if other != one)]


def aws_statements(manifest: Manifest, partition: str = "aws") -> list[dict[str, Any]]:
    """Return the statements of an IAM policy that lets a role read the models on S3: two for each bucket.

    Args:
        partition: of the ARNs; a template may have a variable for it.
    """
    statements: list[dict[str, Any]] = []
    for bucket, prefixes in _by_bucket(manifest, "s3").items():
        arn = f"arn:{partition}:s3:::{bucket}"
        keys = [f"{prefix}/*" if prefix else "*" for prefix in prefixes]
        list_statement: dict[str, Any] = {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": [arn]}
        if "" not in prefixes:
            list_statement["Condition"] = {"StringLike": {"s3:prefix": keys}}
        read = {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [f"{arn}/{key}" for key in keys]}
        statements += [read, list_statement]
    return statements


def _by_bucket(manifest: Manifest, scheme: Scheme) -> Mapping[str, list[str]]:
    buckets: dict[str, list[str]] = {}
    for one in _of(scheme, places(manifest)):
        buckets.setdefault(one.bucket, []).append(one.prefix)
    return buckets


def _of(scheme: Scheme, found: Iterable[Place]) -> Iterable[Place]:
    return (one for one in found if one.scheme == scheme)


def gcs_condition(place: Place, *others: Place) -> str:
    """Return the condition of a bucket's IAM binding, in CEL, that leaves of it what is below prefixes.

    Listing is a right on the bucket. Which prefix a request lists cannot be asked here, so names can be listed of all
    that is in the bucket; bytes can be read of these models alone. Empty, for no condition, if a prefix is.

    Args:
        others: in the same bucket.
    """
    prefixes = [one.prefix for one in (place, *others)]
    if "" in prefixes:
        return ""
    bucket = f"projects/_/buckets/{place.bucket}"
    objects = (f'resource.name.startsWith("{bucket}/objects/{prefix}/")' for prefix in prefixes)
    return " || ".join([f'resource.name == "{bucket}"', *objects])


def aws_policy(manifest: Manifest) -> str:
    """Return the policy, as IAM takes it, that lets a role read the models on S3, and nothing else."""
    statements = aws_statements(manifest, partition_of(manifest.region))
    return f"{json.dumps({'Version': '2012-10-17', 'Statement': statements}, indent=2)}\n"


def partition_of(region: str) -> str:
    """Return the part of AWS that a region, which may be empty, is in, as ARNs have it."""
    return next((name for start, name in _PARTITIONS if region.startswith(start)), "aws")


def _is_within(one: Place, other: Place) -> bool:
    same = (one.scheme, one.bucket) == (other.scheme, other.bucket)
    return same and (not other.prefix or one.prefix.startswith(f"{other.prefix.rstrip('/')}/"))
