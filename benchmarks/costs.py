"""From latency, throughput and memory to money and sizes: arithmetic alone, at the prices of ``benchmarks.prices``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.prices import MONTH, SNAPSTART_CACHE_GB_SECOND, ContainerPrices, LambdaPrices
from handlers.limits import CPU_OF_LAMBDA

MILLION = 1_000_000
MIB = 1 << 20
HEADROOM = 1.25
"""What is granted for each byte that is used at most: another request's body, another day's libraries."""


def lambda_cpus(memory: int) -> float:
    """Return the processors of a function with so many MB."""
    return memory / CPU_OF_LAMBDA


def lambda_million(prices: LambdaPrices, memory: int, seconds: float) -> float:
    """Return what a million invocations cost that take so long each.

    Args:
        memory: of the function, in MB.
    """
    charged = math.ceil(round(seconds * 1000, 6)) / 1000
    return MILLION * charged * memory / 1024 * prices.gb_second + prices.million_requests


def container_second(prices: ContainerPrices, cpus: float, memory: float) -> float:
    """Return what a busy instance costs in a second.

    Args:
        memory: in GiB.
    """
    return cpus * prices.cpu_second + memory * prices.gib_second


def container_million(
    prices: ContainerPrices, cpus: float, memory: float, rate: float, utilisation: float = 1.0
) -> float:
    """Return what a million requests cost on instances that are charged while they are busy.

    Args:
        memory: in GiB.
        rate: answers a second that one instance gives at the concurrency it is sent.
        utilisation: of what instances could have done while they were charged, the part that was asked of them.
    """
    return MILLION * container_second(prices, cpus, memory) / (rate * utilisation) + prices.million_requests


def lone_million(prices: ContainerPrices, cpus: float, memory: float, seconds: float) -> float:
    """Return what a million requests cost that come one at a time: each is charged in whole steps."""
    charged = math.ceil(round(seconds / prices.step, 6)) * prices.step
    return MILLION * charged * container_second(prices, cpus, memory) + prices.million_requests


def warm_month(prices: ContainerPrices, cpus: float, memory: float) -> float:
    """Return what it costs to keep an instance for a month that nobody asks anything."""
    return MONTH * (cpus * prices.idle_cpu_second + memory * prices.idle_gib_second)


def provisioned_month(prices: LambdaPrices, memory: int) -> float:
    """Return what one environment of provisioned concurrency costs in a month without requests."""
    return MONTH * memory / 1024 * prices.provisioned_gb_second


def snapshot_month(memory: int) -> float:
    """Return what the snapshot of one published version costs in a month."""
    return MONTH * memory / 1024 * SNAPSTART_CACHE_GB_SECOND


def break_even(million: float, month: float) -> float:
    """Return how many requests a second, around the clock, make an instance as cheap as paying for each.

    Args:
        million: what a million requests cost where each is paid for.
        month: what an instance costs in a month that is always on.
    """
    return month / million * MILLION / MONTH


class Fit(NamedTuple):
    """Memory of a server at its peak: ``base + size * of_size + concurrency * tensors * of_tensors``, in bytes."""

    base: float
    of_size: float
    of_tensors: float
    error: float
    """By how much the farthest of what was measured was off, in bytes."""

    def peak(self, size: float, tensors: float, concurrency: int) -> float:
        """Return the bytes at the peak.

        Args:
            size: bytes of the model's files.
            tensors: bytes of a request's inputs and its outputs.
        """
        return self.base + self.of_size * size + self.of_tensors * concurrency * tensors


class Observed(NamedTuple):
    size: float
    tensors: float
    concurrency: int
    peak: float


def fit(observed: Sequence[Observed]) -> Fit:
    """Return the least squares; raise ValueError if there is too little to tell the three apart."""
    terms = np.array([(1.0, one.size, one.concurrency * one.tensors) for one in observed])
    scale = np.abs(terms).max(axis=0, initial=1.0)
    peaks = np.array([one.peak for one in observed])
    found, _, rank, _ = np.linalg.lstsq(terms / scale, peaks, rcond=None)
    if rank < terms.shape[1]:
        raise ValueError("want models of different sizes, each with several concurrencies")
    base, of_size, of_tensors = (float(value) for value in found / scale)
    error = float(np.abs(terms / scale @ found - peaks).max())
    return Fit(base, of_size, of_tensors, error)


def to_grant(peak: float, step: int = 128) -> int:
    """Return the MiB to give an instance whose peak is so many bytes: some more, in whole steps."""
    return math.ceil(peak * HEADROOM / MIB / step) * step
