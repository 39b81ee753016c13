"""Real processes on one cache directory, which are killed whenever it suits least."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from model_cache.disk import DiskCache
from model_cache.errors import CacheFull
from model_cache.repository import ModelVersion
from tests.conftest import ROOT
from tests.fakes import until
from tests.model_cache.lessee import digest_of
from tests.model_cache.stores import (
    BIG,
    DirectoryStorage,
    Read,
    files_below,
    given_by,
    leased_files,
    listed,
    names_in,
)
from tests.servers.processes import Process, clean_environment

MIB = 1 << 20


class Bucket:
    """A directory of versions that processes lease from, each with the log of what was read from it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "bucket"
        self.root = directory / "cache"
        self._directory = directory
        self._count = 0

    @property
    def log(self) -> Path:
        """Of what all processes have read."""
        return self._directory / "reads"

    def put(self, number: int, files: dict[str, bytes]) -> str:
        """Store a version; return what a lessee of it says."""
        for name, data in files.items():
            path = self.directory / str(number) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return digest_of(files)

    def version(self, number: int = 1) -> ModelVersion:
        return listed(DirectoryStorage(self.directory, self.log), number)

    def given(self) -> list[Read]:
        return given_by(self.log)

    @contextmanager
    def lessee(self, *arguments: str | int | float) -> Iterator[Process]:
        self._count += 1
        argv: list[str | Path] = [sys.executable, "-m", "tests.model_cache.lessee"]
        argv += [self.directory, self.log, self.root, *map(str, arguments)]
        log = self._directory / f"lessee-{self._count}.log"
        with Process(argv, log, env=clean_environment(), cwd=ROOT) as process:
            yield process


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    return Bucket(tmp_path)


def said(process: Process) -> list[list[str]]:
    """What it said of its leases."""
    return [line.split() for line in process.log().splitlines() if line[:1].isdigit()]


def bytes_of(reads: list[Read]) -> int:
    return sum(read.stop - read.start for read in reads)


def times_given(reads: list[Read], key: str) -> Counter[int]:
    """How often each KiB of a blob was given."""
    return Counter(kib for read in reads if read.key == key for kib in range(read.start // 1024, read.stop // 1024))


@pytest.mark.parametrize("count", [2, 4])
def test_processes_that_want_the_same_download_it_once(bucket: Bucket, count: int) -> None:
    want = bucket.put(1, {"model.onnx": os.urandom(4 * MIB), "model.onnx_data": os.urandom(MIB)})
    with ExitStack() as stack:
        start = time.time() + 0.8
        processes = [
            stack.enter_context(bucket.lessee(1, "--start", start, "--pause", 0.001, "--piece", 65536))
            for _ in range(count)
        ]
        assert [process.wait() for process in processes] == [0] * count
        answers = [said(process) for process in processes]
    assert sorted(answer[0][1] for answer in answers) == ["fetched"] + ["found"] * (count - 1)
    assert {answer[0][2] for answer in answers} == {want}
    assert bytes_of(bucket.given()) == 5 * MIB
    assert names_in(bucket.root) == [bucket.version().digest]


def test_processes_that_want_different_versions_do_not_wait_for_each_other(bucket: Bucket) -> None:
    bucket.put(1, {"model.onnx": os.urandom(MIB)})
    want = bucket.put(2, {"model.onnx": os.urandom(MIB)})
    with bucket.lessee(1, "--piece", 1024, "--pause", 0.05) as slow:
        slow.wait_until(lambda: bool(bucket.given()), 20)
        with bucket.lessee(2) as quick:
            assert quick.wait() == 0
            assert said(quick) == [["2", "fetched", want]]
        assert slow.exit_code is None
        assert said(slow) == []


def test_when_one_is_killed_under_way_another_that_waits_goes_on_with_what_arrived(bucket: Bucket) -> None:
    files = {"model.onnx": os.urandom(MIB)} | {f"data/{number:02}": os.urandom(256 * 1024) for number in range(20)}
    want = bucket.put(1, files)
    with bucket.lessee(1, "--piece", 65536, "--pause", 0.02, "--threads", 1) as first:
        first.wait_until(lambda: bytes_of(bucket.given()) > 3 * MIB, 20)
        with bucket.lessee(1, "--threads", 1) as second:
            second.wait_until(lambda: "ready" in second.log(), 20)
            first.signal(signal.SIGKILL)
            assert second.wait() == 0
            assert said(second) == [["1", "fetched", want]]
    # No more than the file that was under way came twice.
    assert bytes_of(bucket.given()) <= 6 * MIB + 256 * 1024
    assert names_in(bucket.root) == [bucket.version().digest]


def test_what_another_process_leases_is_neither_evicted_nor_removed(bucket: Bucket) -> None:
    bucket.put(1, {"model.onnx": b"1" * MIB})
    bucket.put(2, {"model.onnx": b"2" * MIB})
    cache = DiskCache(bucket.root, MIB + MIB // 2)
    with bucket.lessee(1, "--hold") as holder:
        holder.wait_until(lambda: bool(said(holder)), 20)
        with pytest.raises(CacheFull, match=rf"m/2 needs {MIB} bytes of disk; {MIB} of {MIB + MIB // 2}"):
            leased_files(cache, bucket.version(2))
        assert not cache.remove(cache.entries()[0])
        assert not any(read.key.startswith("2/") for read in bucket.given())
        assert names_in(bucket.root) == [bucket.version(1).digest]
        holder.signal(signal.SIGKILL)
        holder.wait()
    # A lease ends with its process.
    assert leased_files(cache, bucket.version(2)) == {"model.onnx": b"2" * MIB}
    assert names_in(bucket.root) == [bucket.version(2).digest]


def test_what_another_process_downloads_is_not_swept_by_one_that_starts(bucket: Bucket) -> None:
    want = bucket.put(1, {"model.onnx": b"1" * MIB})
    bucket.put(2, {"model.onnx": b"2"})
    partial = bucket.root / f".partial-{bucket.version(1).digest}"
    with bucket.lessee(1, "--piece", 65536, "--pause", 0.05) as slow:
        slow.wait_until(lambda: bool(bucket.given()), 20)
        os.utime(partial, (0, 0))
        with bucket.lessee(2) as other:
            assert other.wait() == 0
        assert partial.exists()
        assert slow.wait() == 0
        assert said(slow) == [["1", "fetched", want]]
    assert bytes_of(bucket.given()) == MIB + 1


@pytest.mark.parametrize("seed", [1, 2])
def test_a_process_killed_at_any_moment_leaves_nothing_wrong_and_loses_little(bucket: Bucket, seed: int) -> None:
    """Killed again and again, each time a little later, until one comes through."""
    chance = random.Random(seed)
    small = {f"data/{number:02}": chance.randbytes(100_000 + number) for number in range(30)}
    files = {"model.onnx": chance.randbytes(20 * MIB)} | small
    want = bucket.put(1, files)
    version = bucket.version(1)
    kills = 0
    while True:
        with bucket.lessee(1, "--piece", 65536, "--pause", 0.001) as process:
            time.sleep(0.1 + (kills + chance.random()) * 0.03)
            if process.exit_code is None:
                process.signal(signal.SIGKILL)
            process.wait()
            if said(process):
                assert said(process)[0][2] == want
                break
        kills += 1
        assert kills < 60
    assert leased_files(DiskCache(bucket.root, BIG), version) == files
    assert names_in(bucket.root) == [version.digest]
    assert kills >= 3
    given = bucket.given()
    # Each of the two threads loses what it has not written down: of a large file 8 MiB at most, of a small one all.
    assert bytes_of([read for read in given if read.key != "1/model.onnx"]) <= sum(map(len, small.values())) + (
        kills * 2 * 100_100
    )
    assert max(times_given(given, "1/model.onnx").values(), default=0) <= kills + 1


def test_a_process_killed_between_any_two_steps_on_the_disk_leaves_nothing_wrong(bucket: Bucket) -> None:
    """The steps that matter are few: the kill comes when the directory looks so for the first time."""
    files = {"model.onnx": os.urandom(3 * MIB), "model.onnx_data": os.urandom(1000)}
    want = bucket.put(1, files)
    digest = bucket.version().digest
    partial = bucket.root / f".partial-{digest}"
    steps = [
        bucket.root,
        partial,
        partial / "model.onnx",
        partial / ".decant-journal",
        partial / ".decant.json",
        bucket.root / digest,
    ]
    for step in steps:
        with bucket.lessee(1, "--hold") as process:
            until(lambda step=step: step.exists() or (bucket.root / digest).exists())  # type: ignore[misc]
            process.signal(signal.SIGKILL)
            process.wait()
        with bucket.lessee(1) as process:
            assert process.wait() == 0
            assert said(process)[0][2] == want
        assert names_in(bucket.root) == [digest]
        (entry,) = DiskCache(bucket.root, BIG).entries()
        assert entry.is_complete
        assert DiskCache(bucket.root, BIG).damaged(entry) == []
        assert DiskCache(bucket.root, BIG).remove(entry)


def test_budgets_hold_for_processes_together(bucket: Bucket) -> None:
    budget = 3 * MIB
    wants = {number: bucket.put(number, {"model.onnx": bytes([number]) * (MIB + number)}) for number in range(1, 7)}
    chance = random.Random(5)
    most = 0
    with ExitStack() as stack:
        processes = []
        for _ in range(3):
            numbers = [chance.randint(1, 6) for _ in range(40)]
            processes.append(stack.enter_context(bucket.lessee(*numbers, "--budget", budget)))
        while any(process.exit_code is None for process in processes):
            most = max(most, sum(entry.size for entry in DiskCache(bucket.root, budget).entries()))
        answers = [answer for process in processes for answer in said(process)]
        assert [process.exit_code for process in processes] == [0, 0, 0]
    assert len(answers) == 120
    for number, outcome, *rest in answers:
        assert (outcome == "failed" and rest[0] == "CacheFull") or rest == [wants[int(number)]], (outcome, rest)
    assert sum(outcome != "failed" for _, outcome, *_ in answers) > 60
    # One that goes and one that comes may both be in a sum that is taken meanwhile.
    assert 2 * MIB < most <= budget + 2 * MIB
    assert sum(path.stat().st_size for path in bucket.root.rglob("model.onnx")) <= budget


def test_a_process_that_is_stopped_and_goes_on_hours_later_is_in_nobodys_way(bucket: Bucket) -> None:
    """As platforms freeze and thaw them: others that want other versions go on, and so does it."""
    want = bucket.put(1, {"model.onnx": os.urandom(2 * MIB)})
    bucket.put(2, {"model.onnx": os.urandom(MIB)})
    with bucket.lessee(1, "--piece", 65536, "--pause", 0.02) as frozen:
        frozen.wait_until(lambda: bytes_of(bucket.given()) > MIB // 2, 20)
        frozen.signal(signal.SIGSTOP)
        with bucket.lessee(2) as other:
            assert other.wait() == 0
            assert said(other)[0][1] == "fetched"
        frozen.signal(signal.SIGCONT)
        assert frozen.wait() == 0
        assert said(frozen) == [["1", "fetched", want]]
    assert bytes_of([read for read in bucket.given() if read.key == "1/model.onnx"]) == 2 * MIB
    until(lambda: files_below(bucket.root / bucket.version(1).digest).keys() == {"model.onnx"})
