"""List prices of serverless platforms: the one place where they are, each with where it is published.

US dollars, without free tiers, committed use, taxes and traffic. Prices change, and differ by region: look them up
before relying on a sum, and put yours here.
"""

from __future__ import annotations

from typing import NamedTuple

DATE = "2026-11-22"
"""When these were last compared with copies of what is published."""

MONTH = 730 * 3600
"""Seconds, as price calculators have it."""


class LambdaPrices(NamedTuple):
    """Memory is charged in GB of 1,024 MB for each millisecond begun, the init phase included."""

    name: str
    gb_second: float
    million_requests: float
    provisioned_gb_second: float
    """While it is kept ready; what it works then costs `provisioned_work_gb_second` in place of `gb_second`."""
    provisioned_work_gb_second: float
    source: str


class ContainerPrices(NamedTuple):
    """A container's processors and memory are charged for as long as an instance counts as busy."""

    name: str
    cpu_second: float
    gib_second: float
    million_requests: float
    idle_cpu_second: float
    idle_gib_second: float
    """Of an instance that is kept though nobody asks it anything."""
    step: float
    """Seconds that what is charged is rounded up to."""
    source: str


AWS = "https://aws.amazon.com/lambda/pricing/"
GOOGLE = "https://cloud.google.com/run/pricing"
AZURE = "https://azure.microsoft.com/pricing/details/container-apps/"

LAMBDA_X86 = LambdaPrices("Lambda, x86 (us-east-1)", 16.6667e-6, 0.20, 4.1667e-6, 9.7222e-6, AWS)
LAMBDA_ARM = LambdaPrices("Lambda, arm64 (us-east-1)", 13.3334e-6, 0.20, 3.3334e-6, 7.7778e-6, AWS)

SNAPSTART_CACHE_GB_SECOND = 1.5046e-6
"""Of a published version's memory, for as long as it is there."""
SNAPSTART_RESTORE_GB = 139.7998e-6

CLOUD_RUN_REQUESTS = ContainerPrices(
    "Cloud Run, request-based (us-central1)", 24e-6, 2.5e-6, 0.40, 2.5e-6, 2.5e-6, 0.1, GOOGLE
)
# As long as an instance is there it is charged in full, and requests are not.
CLOUD_RUN_INSTANCES = ContainerPrices(
    "Cloud Run, instance-based (us-central1)", 18e-6, 2e-6, 0.0, 18e-6, 2e-6, 0.1, GOOGLE
)
# Memory costs the same idle and active.
CONTAINER_APPS = ContainerPrices("Container Apps, consumption (East US)", 24e-6, 3e-6, 0.40, 3e-6, 3e-6, 1.0, AZURE)

CONTAINERS = (CLOUD_RUN_REQUESTS, CLOUD_RUN_INSTANCES, CONTAINER_APPS)
