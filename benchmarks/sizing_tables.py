"""What was measured for sizes, as tables, and what it costs at the list prices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from benchmarks.costs import (
    MIB,
    Fit,
    break_even,
    container_million,
    lambda_cpus,
    lambda_million,
    lone_million,
    provisioned_month,
    snapshot_month,
    to_grant,
    warm_month,
)
from benchmarks.load import Load
from benchmarks.prices import (
    CLOUD_RUN_INSTANCES,
    CLOUD_RUN_REQUESTS,
    CONTAINER_APPS,
    CONTAINERS,
    LAMBDA_ARM,
    LAMBDA_X86,
    SNAPSTART_CACHE_GB_SECOND,
    SNAPSTART_RESTORE_GB,
)
from benchmarks.report import Cell, table

UTILISATION = 0.5
"""Of an instance's best rate: what is left for bursts, and for the time until another instance is there."""
CALLERS = 4
"""Requests at a time that containers are taken to get."""
LEAST = 0.5
"""GiB of an instance with a whole processor."""


class Held(NamedTuple):
    model: str
    size: int
    tensors: int
    callers: int
    peak: int
    """Bytes."""


class Limited(NamedTuple):
    model: str
    cpus: float
    threads: int | None
    start: float
    """Seconds from the start of the process to its first answer; the model is on the disk."""
    one: Load
    four: Load


class Function(NamedTuple):
    """Without seconds where the memory was not enough."""

    model: str
    memory: int
    start: float | None
    mean: float | None
    """What is paid for."""
    p50: float | None
    p99: float | None
    peak: int


def measured_tables(held: Sequence[Held], limited: Sequence[Limited], functions: Sequence[Function]) -> dict[str, str]:
    tables = {"memory": _memory(held)}
    if limited:
        tables["limits"] = _limits(row for row in limited if row.threads is None)
        tables["threads"] = _threads(row for row in limited if row.threads is not None)
    if functions:
        tables["lambda"] = _functions(functions)
    return tables


def cost_tables(held: Sequence[Held], limited: Sequence[Limited], functions: Sequence[Function]) -> dict[str, str]:
    tables = {"prices": _prices()}
    if functions:
        tables["lambda-costs"] = _function_costs(functions)
    if limited:
        tables["container-costs"] = _container_costs(held, limited)
        tables["always-on"] = _always_on(held, limited, functions)
    return tables


def fit_table(fit: Fit) -> dict[str, str]:
    rows: list[list[Cell]] = [
        ["base", f"{fit.base / MIB:.0f} MiB"],
        ["for each byte of the model's files", f"{fit.of_size:.2f} bytes"],
        ["for each byte of a request's tensors, and each request at a time", f"{fit.of_tensors:.2f} bytes"],
        ["farthest off", f"{fit.error / MIB:.0f} MiB"],
    ]
    return {"fit": table((" what", "memory at the peak"), rows)}


def _memory(held: Sequence[Held]) -> str:
    callers = sorted({row.callers for row in held})
    head = (" model", "files MiB", "tensors of a request KiB", *(f"peak MiB, {number} at a time" for number in callers))
    peaks = {(row.model, row.callers): row.peak for row in held}
    rows: list[list[Cell]] = []
    for one in dict.fromkeys((row.model, row.size, row.tensors) for row in held):
        model, size, tensors = one
        rows.append([model, size / MIB, tensors / 1024, *(round(peaks[model, number] / MIB) for number in callers)])
    return table(head, rows)


def _limits(limited: Iterable[Limited]) -> str:
    head = (
        " model",
        "CPUs",
        "start s",
        "p50 ms",
        "p99 ms",
        "answers/s",
        "answers/s, 4 at a time",
        "p99 ms, 4 at a time",
    )
    return table(head, ([row.model, row.cpus, row.start, *_speeds(row)] for row in limited))


def _threads(limited: Iterable[Limited]) -> str:
    head = (
        " model",
        "CPUs",
        "threads",
        "p50 ms",
        "p99 ms",
        "answers/s",
        "answers/s, 4 at a time",
        "p99 ms, 4 at a time",
    )
    return table(head, ([row.model, row.cpus, row.threads, *_speeds(row)] for row in limited))


def _speeds(row: Limited) -> list[Cell]:
    return [row.one.p50 * 1e3, row.one.p99 * 1e3, row.one.rate, row.four.rate, row.four.p99 * 1e3]


def _functions(functions: Sequence[Function]) -> str:
    head = (" model", "memory MB", "CPUs", "start s", "mean ms", "p50 ms", "p99 ms", "peak MiB")
    return table(head, (_function(row) for row in functions))


def _function(row: Function) -> list[Cell]:
    head: list[Cell] = [row.model, row.memory, lambda_cpus(row.memory)]
    if row.start is None or row.mean is None or row.p50 is None or row.p99 is None:
        return [*head, "not enough", None, None, None, round(row.peak / MIB)]
    return [*head, row.start, row.mean * 1e3, row.p50 * 1e3, row.p99 * 1e3, round(row.peak / MIB)]


def _function_costs(functions: Sequence[Function]) -> str:
    head = (
        " model",
        "memory MB",
        "mean ms",
        "USD a million, x86",
        "arm64, were it as fast",
        "USD a million cold starts",
    )
    rows: list[list[Cell]] = []
    for row in functions:
        if row.mean is not None and row.start is not None:
            costs = [lambda_million(prices, row.memory, row.mean) for prices in (LAMBDA_X86, LAMBDA_ARM)]
            starts = lambda_million(LAMBDA_X86, row.memory, row.start)
            rows.append([row.model, row.memory, row.mean * 1e3, *costs, starts])
    return table(head, rows)


def _container_costs(held: Sequence[Held], limited: Sequence[Limited]) -> str:
    """With one processor, or as near as was measured, and as much memory as the model wants."""
    names = [prices.name.partition(" (")[0] for prices in CONTAINERS]
    head = (
        " model",
        "GiB",
        "answers/s",
        *(f"{name}: USD a million, half busy" for name in names),
        "Cloud Run, request-based: one at a time",
    )
    rows: list[list[Cell]] = []
    for row in _with_a_processor(limited):
        memory = memory_of(held, row.model)
        costs = [
            container_million(prices, row.cpus, _whole(prices.name, memory, row.cpus), row.four.rate, UTILISATION)
            for prices in CONTAINERS
        ]
        lone = lone_million(CLOUD_RUN_REQUESTS, row.cpus, memory, row.one.p50)
        rows.append([row.model, memory, row.four.rate, *costs, lone])
    return table(head, rows)


def _always_on(held: Sequence[Held], limited: Sequence[Limited], functions: Sequence[Function]) -> str:
    """What one instance kept warm costs, and from which rate on it is cheaper than a function for each request."""
    head = (
        " model",
        "Cloud Run, instance-based: USD a month",
        "Container Apps, idle",
        "Lambda, provisioned",
        "Lambda, SnapStart",
        "requests/s from which instances are cheaper than Lambda",
        "answers/s of one instance",
    )
    rows: list[list[Cell]] = []
    for row in _with_a_processor(limited):
        chosen = cheapest(function for function in functions if function.model == row.model)
        if chosen is None or chosen.mean is None:
            continue
        memory = memory_of(held, row.model)
        month = warm_month(CLOUD_RUN_INSTANCES, row.cpus, memory)
        even = break_even(lambda_million(LAMBDA_X86, chosen.memory, chosen.mean), month)
        idle = warm_month(CONTAINER_APPS, row.cpus, _whole(CONTAINER_APPS.name, memory, row.cpus))
        kept = [month, idle, provisioned_month(LAMBDA_X86, chosen.memory), snapshot_month(chosen.memory)]
        rows.append([row.model, *kept, even, row.four.rate])
    return table(head, rows)


def cheapest(functions: Iterable[Function]) -> Function | None:
    """Return the function that costs least for each request, among those with enough memory."""
    able = [(lambda_million(LAMBDA_X86, row.memory, row.mean), row) for row in functions if row.mean is not None]
    return min(able)[1] if able else None


def memory_of(held: Sequence[Held], model: str) -> float:
    """Return the GiB to grant for as many requests at a time as containers get."""
    peaks = [row.peak for row in held if row.model == model and row.callers <= CALLERS]
    return max(LEAST, to_grant(max(peaks), 256) / 1024)


def _whole(platform: str, memory: float, cpus: float) -> float:
    """Container Apps sells two GiB with each processor, and nothing in between."""
    return max(memory, 2 * cpus) if platform == CONTAINER_APPS.name else memory


def _with_a_processor(limited: Sequence[Limited]) -> Iterator[Limited]:
    by_model: dict[str, list[Limited]] = {}
    for row in limited:
        if row.threads is None:
            by_model.setdefault(row.model, []).append(row)
    for rows in by_model.values():
        yield min(rows, key=lambda row: abs(row.cpus - 1))


def _prices() -> str:
    rows: list[list[Cell]] = [
        [
            one.name,
            "",
            "",
            f"{one.gb_second * 1e6:g}",
            f"{one.provisioned_gb_second * 1e6:g}",
            f"{one.million_requests:g}",
        ]
        for one in (LAMBDA_X86, LAMBDA_ARM)
    ]
    restore = f"{SNAPSTART_RESTORE_GB * 1e6:g} for each GB restored"
    rows.append(
        [f"Lambda, SnapStart: a snapshot, and {restore}", "", "", "", f"{SNAPSTART_CACHE_GB_SECOND * 1e6:g}", ""]
    )
    for other in CONTAINERS:
        rows.append(
            [
                other.name,
                f"{other.cpu_second * 1e6:g}",
                f"{other.idle_cpu_second * 1e6:g}",
                f"{other.gib_second * 1e6:g}",
                f"{other.idle_gib_second * 1e6:g}",
                f"{other.million_requests:g}",
            ]
        )
    head = (" platform", "vCPU", "idle vCPU", "GiB", "idle GiB", "a million requests, USD")
    return table(head, rows)


TABLES: Mapping[str, str] = {
    "memory": "peak memory",
    "fit": "the line through it",
    "limits": "latency under limits",
    "threads": "threads",
    "lambda": "functions",
    "prices": "list prices",
    "lambda-costs": "costs of functions",
    "container-costs": "costs of containers",
    "always-on": "instances kept warm",
}
"""What is where in docs/sizing.md."""
