"""What the cache of compiled models costs, and how it does with far more models than fit.

Two measurements. A hit: microseconds to lease and release a model that is loaded. A crowd: 200 models in a bucket, a
memory budget for 20 of them and a disk budget for half, and threads that ask for one after the other as Zipf says. The
k-th most popular model gets a share proportional to ``1 / k ** skew``. Every answer is checked for being that model's,
and the hits are compared with those of a cache of 20 that always evicts the least recently used.

Run as ``python -m benchmarks.cache``. ``docs/performance.md`` has the results.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from benchmarks.machine import machine, noting_others
from model_cache.cache import ModelCache
from model_cache.disk import DiskCache
from model_cache.repository import ModelRepository, ModelVersion, ServableId
from model_cache.storage import Blob, StorageOptions, open_storage
from runtime.engine import OpenVinoLoader
from runtime.memory import resident, trim
from runtime.servable import Servable
from runtime.server import ModelServer
from runtime.signature import DEFAULT_SIGNATURE
from tests.fakes import MemoryStorage
from tests.servers.seaweedfs import SeaweedFS, seaweedfs

BUCKET = "models"
WIDTH = 1024
"""Of the one matrix that a model has: 4 MiB of float32."""
MIB = 1 << 20
_HITS = 100_000
_SAMPLE_EVERY = 0.002


class Nothing:
    """Takes a byte, and no time to load."""

    size = 1

    def close(self) -> None:
        pass


class NothingLoader:
    def estimate(self, version: ModelVersion) -> int:
        return 1

    def load(self, version: ModelVersion) -> Nothing:
        return Nothing()


def hit_cost(threads: int, runs: int) -> list[float]:
    """Return the microseconds that a lease and its release take, by run, if so many threads do nothing else."""
    storage = MemoryStorage()
    blobs = (Blob("1/model.xml", 1, "etag"),)
    versions = [ModelVersion(ServableId(f"model{number}", 1), "1/", blobs, storage) for number in range(20)]
    cache = ModelCache[ModelVersion, Nothing](NothingLoader(), len(versions))
    for version in versions:
        with cache.lease(version):
            pass

    def work(version: ModelVersion) -> None:
        for _ in range(_HITS):
            with cache.lease(version):
                pass

    tasks = [partial(work, version) for version in versions[:threads]]
    return [in_threads(tasks) * 1e6 / (_HITS * threads) for _ in range(runs)]


def in_threads(tasks: Sequence[Callable[[], object]]) -> float:
    """Return the seconds that it takes to do the tasks, each in a thread of its own."""
    threads = [threading.Thread(target=task) for task in tasks]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started


def write_model(number: int, directory: Path) -> None:
    """Write ``y = x @ w``, where the first row of ``w`` is the model's number."""
    weights = np.random.default_rng(number).standard_normal((WIDTH, WIDTH), dtype=np.float32)
    weights[0] = number
    x = ops.parameter([1, WIDTH], ov.Type.f32, name="x")
    x.output(0).get_tensor().set_names({"x"})
    y = ops.matmul(x, ops.constant(weights), False, False)
    y.output(0).get_tensor().set_names({"y"})
    directory.mkdir(parents=True)
    ov.save_model(ov.Model([ops.result(y)], [x], "model"), directory / "model.xml", compress_to_fp16=False)


def is_models_answer(servable: Servable, number: int) -> bool:
    x = np.zeros((1, WIDTH), np.float32)
    x[0, 0] = 1
    # bfloat16, which some processors compute in, has integers up to 256.
    return bool((servable.predict(DEFAULT_SIGNATURE, {"x": x})["y"] == number).all())


def lru_hits(requests: Sequence[int], size: int) -> int:
    """Return how many requests a cache would answer that holds the ``size`` most recently used."""
    held: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for number in requests:
        hits += number in held
        held[number] = None
        held.move_to_end(number)
        if len(held) > size:
            held.popitem(last=False)
    return hits


class CountingLoader:
    """Loads through another, and counts."""

    def __init__(self, loader: OpenVinoLoader) -> None:
        self._loader = loader
        self.loads = itertools.count()
        self.downloads = itertools.count()

    def estimate(self, version: ModelVersion) -> int:
        return self._loader.estimate(version)

    def load(self, version: ModelVersion) -> Servable:
        servable = self._loader.load(version)
        next(self.loads)
        if servable.phases.fetched:
            next(self.downloads)
        return servable


@dataclass
class Crowd:
    """What came of a crowd."""

    requests: int
    ideal: float
    """Share of hits of a cache of as many models that always evicts the least recently used."""
    budget: int
    one: int
    """Bytes that a model is measured to occupy."""
    seconds: float = 0.0
    hits: list[float] = field(default_factory=list)
    misses: list[float] = field(default_factory=list)
    """Seconds until the model was leased, by request."""
    errors: list[str] = field(default_factory=list)
    loads: int = 0
    downloads: int = 0
    held: int = 0
    """Models loaded at the end."""
    start_rss: int = 0
    start_own: int = 0
    peak_rss: int = 0
    peak_own: int = 0
    """Bytes above the start that are no file's."""
    peak_used: int = 0
    """By the cache's own account."""
    end_rss: int = 0
    end_own: int = 0
    """Above the start, with all models closed."""


@contextlib.contextmanager
def watching(crowd: Crowd, cache: ModelCache[ModelVersion, Servable]) -> Iterator[None]:
    """Note what memory is used at most."""
    is_over = threading.Event()
    start = _resident()
    crowd.start_rss, crowd.start_own = start.total, start.own

    def watch() -> None:
        while not is_over.wait(_SAMPLE_EVERY):
            now = _resident()
            crowd.peak_rss = max(crowd.peak_rss, now.total)
            crowd.peak_own = max(crowd.peak_own, now.own - start.own)
            crowd.peak_used = max(crowd.peak_used, cache.snapshot().used)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()


def run_crowd(s3: SeaweedFS, scratch: Path, options: argparse.Namespace) -> Crowd:
    names = [f"m{number:03}" for number in range(options.models)]
    size = sum(path.stat().st_size for path in (scratch / "models" / names[0]).rglob("*") if path.is_file())
    disk = DiskCache(scratch / "cache", size * options.models // 2)
    repositories = {name: _repository(name, s3) for name in names}
    loader = CountingLoader(OpenVinoLoader(disk))
    one = _measure_one(loader, repositories[names[-1]])
    budget = options.fit * one
    cache = ModelCache[ModelVersion, Servable](loader, budget)
    server = ModelServer(repositories, cache, disk)
    # Once before, so that what the store's clients take, one for each model, is not taken for the models'.
    for repository in repositories.values():
        with disk.lease(repository.find(1)):
            pass

    requests = _zipf(options.models, options.skew, options.requests)
    crowd = Crowd(len(requests), lru_hits(requests, options.fit) / len(requests), budget, one)
    loader.loads, loader.downloads = itertools.count(), itertools.count()
    trim()
    with watching(crowd, cache):
        turns = iter(requests)
        lock = threading.Lock()
        work = partial(_work, crowd, server, cache, repositories, names, turns, lock)
        crowd.seconds = in_threads([work] * options.threads)
    crowd.loads, crowd.downloads = next(loader.loads), next(loader.downloads)
    crowd.held = len(cache.snapshot().holdings)
    server.close()
    end = _resident()
    crowd.end_rss, crowd.end_own = end.total - crowd.start_rss, end.own - crowd.start_own
    return crowd


def _work(
    crowd: Crowd,
    server: ModelServer,
    cache: ModelCache[ModelVersion, Servable],
    repositories: dict[str, ModelRepository],
    names: Sequence[str],
    turns: Iterator[int],
    lock: threading.Lock,
) -> None:
    while True:
        with lock:
            number = next(turns, None)
        if number is None:
            return
        name = names[number]
        is_hit = cache.is_loaded(repositories[name].find(1))
        started = time.perf_counter()
        try:
            with server.lease(name) as lease:
                seconds = time.perf_counter() - started
                if not is_models_answer(lease.servable, number):
                    crowd.errors.append(f"{name} gave another model's answer")
        # Whatever it is, it is what is looked for.
        except Exception as exc:  # noqa: BLE001
            crowd.errors.append(f"{name}: {exc!r}")
            continue
        (crowd.hits if is_hit else crowd.misses).append(seconds)


def _measure_one(loader: CountingLoader, repository: ModelRepository) -> int:
    """Load a model twice, as the first one takes memory that is used again; return its size."""
    sizes = []
    for _ in range(2):
        servable = loader.load(repository.find(1))
        is_models_answer(servable, 0)
        sizes.append(servable.size)
        servable.close()
    return sizes[-1]


def _zipf(models: int, skew: float, requests: int) -> list[int]:
    shares = 1 / np.arange(1, models + 1) ** skew
    dice = np.random.default_rng(0)
    order = dice.permutation(models)
    return [int(number) for number in order[dice.choice(models, requests, p=shares / shares.sum())]]


def _repository(name: str, s3: SeaweedFS) -> ModelRepository:
    options = StorageOptions(s3_endpoint=s3.endpoint, environ=dict(os.environ))
    return ModelRepository(name, open_storage(f"s3://{BUCKET}/{name}", options))


def _resident() -> Any:
    found = resident()
    if found is None:
        raise SystemExit("this system does not tell how much memory a process has")
    return found


def report_hits(costs: dict[int, list[float]]) -> str:
    lines = ["| threads | median us | least | most |", "| ---: | ---: | ---: | ---: |"]
    for threads, found in costs.items():
        lines.append(f"| {threads} | {statistics.median(found):.2f} | {min(found):.2f} | {max(found):.2f} |")
    return "\n".join(lines)


def report_crowd(crowd: Crowd) -> str:
    rows = {
        "requests, errors": f"{crowd.requests}, {len(crowd.errors)}",
        "requests a second": f"{crowd.requests / crowd.seconds:.0f}",
        "hits": f"{len(crowd.hits) / crowd.requests:.1%}",
        "hits of an ideal LRU": f"{crowd.ideal:.1%}",
        "loads, of these with a download": f"{crowd.loads}, {crowd.downloads}",
        "evictions": f"{crowd.loads - crowd.held}",
        "models held at the end": f"{crowd.held}",
        "a hit's lease, p50, p99": f"{_percentile(crowd.hits, 50) * 1e6:.0f} us, "
        f"{_percentile(crowd.hits, 99) * 1e6:.0f} us",
        "a miss's lease, p50, p99": f"{_percentile(crowd.misses, 50) * 1e3:.0f} ms, "
        f"{_percentile(crowd.misses, 99) * 1e3:.0f} ms",
        "budget": f"{crowd.budget / MIB:.0f} MiB; a model is measured to take {crowd.one / MIB:.1f} MiB",
        "most of it used, by the cache's account": f"{crowd.peak_used / MIB:.0f} MiB",
        "RSS at the start, at its peak": f"{crowd.start_rss / MIB:.0f} MiB, {crowd.peak_rss / MIB:.0f} MiB",
        "RSS's peak above the start": f"{(crowd.peak_rss - crowd.start_rss) / MIB:.0f} MiB, "
        f"{(crowd.peak_rss - crowd.start_rss) / crowd.budget:.0%} of the budget",
        "of these no file's": f"{crowd.peak_own / MIB:.0f} MiB",
        "RSS above the start with all models closed": f"{crowd.end_rss / MIB:.0f} MiB, "
        f"of these no file's {crowd.end_own / MIB:.0f} MiB",
    }
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())])


def _percentile(seconds: Sequence[float], percent: float) -> float:
    return float(np.percentile(seconds, percent)) if seconds else 0.0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="measurements of a hit")
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--fit", type=int, default=20, help="models that the budget is for")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--skew", type=float, default=1.1)
    return parser.parse_args()


def main() -> None:
    options = _arguments()
    facts = machine()
    with noting_others(facts), tempfile.TemporaryDirectory(prefix="cache-") as directory:
        costs = {threads: hit_cost(threads, options.runs) for threads in (1, 4)}
        _say(report_hits(costs))
        scratch = Path(directory)
        with seaweedfs(scratch, BUCKET) as s3:
            os.environ.update(s3.admin.env())
            for number in range(options.models):
                name = f"m{number:03}"
                write_model(number, scratch / "models" / name / "1")
                s3.put_tree(BUCKET, name, scratch / "models" / name)
            _say("the models are in the bucket")
            crowd = run_crowd(s3, scratch, options)
    print("\n".join(f"{fact}: {value}" for fact, value in facts.items()), end="\n\n")
    print(f"{report_hits(costs)}\n\n{report_crowd(crowd)}")
    for error in crowd.errors[:10]:
        print(error)
    sys.exit(bool(crowd.errors))


if __name__ == "__main__":
    main()
