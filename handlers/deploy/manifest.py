"""What is to be served and by how much, whatever the platform."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

_NONE: Mapping[str, Any] = MappingProxyType({})


class Model(NamedTuple):
    name: str
    base_path: str
    """``s3://bucket/prefix``, ``gs://…``, ``az://container/prefix``, or a directory; no slash at its end."""
    options: Mapping[str, Any] = _NONE
    """Its other fields in OpenVINO Model Server's config.json, such as ``model_version_policy`` and ``shape``."""


class Manifest(NamedTuple):
    name: str
    """The service's: a DNS label, as all platforms want it."""
    image: str
    models: tuple[Model, ...]
    region: str = ""
    """The platform's; empty is a placeholder, or what its tool is set up with."""
    architecture: Literal["amd64", "arm64"] = "amd64"
    memory: int = 2048
    """MiB of an instance."""
    cpu: float = 1.0
    """Cores of an instance; Lambda has them from the memory."""
    disk: int = 1024
    """MiB for downloaded models, where the platform has disks and counts them."""
    concurrency: int = 4
    """Requests that an instance is sent at a time; one on Lambda."""
    timeout: int = 60
    """Seconds that a request may take, the load of its model included."""
    min_instances: int = 0
    """Instances that are kept warm."""
    max_instances: int = 10
    grpc: bool = False
    """Whether gRPC is served too, or instead where there is one port."""
    public: bool = False
    """Whether requests need no identity, and come from anywhere."""
    azure_account: str = ""
    """The storage account of ``az://`` models."""
    settings: Mapping[str, str] = _NONE
    """Further settings of Decant's, by flag without dashes: ``log_level``."""
    is_limited: bool = False
    """Whether ``max_instances`` was said and is no default: Lambda takes that many from all that an account has."""
