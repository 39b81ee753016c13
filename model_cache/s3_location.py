"""What both clients of S3 must say alike: which objects a URL means, and what an ETag tells of their bytes."""

from __future__ import annotations

import re
from typing import NamedTuple


class S3Location(NamedTuple):
    """``prefix`` is empty or ends in a slash; ``endpoint`` is empty for Amazon's; ``name`` is the URL without it."""

    name: str
    bucket: str
    prefix: str
    endpoint: str


def locate(url: str, endpoint: str) -> S3Location:
    """Read ``s3://bucket/prefix``, or OVMS's ``s3://host:port/bucket/prefix`` with an endpoint of its own.

    Raises:
        ValueError: the URL names no bucket.
    """
    host, _, path = url.partition("://")[2].partition("/")
    name = f"s3://{host}"
    # No bucket's name has a colon.
    if re.fullmatch(r"([^:@]+|\[[^]@]+\]):\d+", host):
        endpoint = f"http://{host}"
        host, _, path = path.partition("/")
        name = f"{name}/{host}"
    if not host:
        raise ValueError(f"{url!r} names no bucket; want s3://bucket/prefix")
    prefix = path.strip("/")
    return S3Location(name, host, f"{prefix}/" if prefix else "", endpoint)


def is_directory_bucket(bucket: str) -> bool:
    """Whether it is one of S3 Express One Zone."""
    return bucket.endswith("--x-s3")


def checksum_of(etag: str, bucket: str) -> str:
    """Return the checksum that an ETag is; of an upload in parts, and in a directory bucket, it is none."""
    md5 = re.fullmatch(r'"?([0-9a-f]{32})"?', etag)
    return f"md5:{md5[1]}" if md5 and not is_directory_bucket(bucket) else ""


def is_etag_md5(encryption: str | None, customer_algorithm: str | None) -> bool:
    """Whether the ETag of an object of one part is its MD5: not if a key of KMS or of the client encrypts it.

    Args:
        encryption: x-amz-server-side-encryption of a HeadObject's answer.
        customer_algorithm: x-amz-server-side-encryption-customer-algorithm of it.
    """
    return encryption in (None, "AES256") and customer_algorithm is None
