"""Megabytes a second from three stores to the disk: Decant's two clients, the stores' own SDKs, and bare HTTP.

One object at a time, from a server on this machine into a new file. The contenders take turns, so that a change of the
machine's mood meets all of them alike, and the first round is thrown away. Every file is compared with what was
uploaded, after its time has been taken.

Run as ``python -m benchmarks.download``. ``docs/performance.md`` has the results.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import http.client
import os
import queue
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.machine import machine
from model_cache.disk import DiskCache
from model_cache.download import MAX_PART, MIN_PART, STREAMS
from model_cache.repository import ModelRepository
from model_cache.storage import StorageOptions, open_storage
from tests.servers.azurite import IS_INSTALLED, azurite
from tests.servers.fake_gcs import fake_gcs
from tests.servers.seaweedfs import seaweedfs

BUCKET = "models"
KEY = "m/1/model.onnx"
MEGABYTE = 1_000_000
_BUFFER = 1 << 20
_TIMEOUT = 60.0

Fetch = Callable[[Path], Path]
"""Download the object into an empty directory; return the file."""


@dataclass(frozen=True)
class Store:
    """A server with one object in it, and the ways to get that."""

    name: str
    contenders: dict[str, Fetch]


@dataclass
class Result:
    store: str
    size: int
    contender: str
    seconds: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.size / MEGABYTE / statistics.median(self.seconds)


def bare(url: str, size: int) -> Fetch:
    """What could hardly be quicker: threads that read ranges of a public URL into a buffer and write that in place."""
    part = min(max(-(-size // STREAMS), MIN_PART), MAX_PART)

    def fetch(directory: Path) -> Path:
        path = directory / "model.onnx"
        starts: queue.SimpleQueue[int] = queue.SimpleQueue()
        for start in range(0, size, part):
            starts.put(start)
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
            threads = [
                threading.Thread(target=_read_ranges, args=(url, starts, part, size, file.fileno()))
                for _ in range(STREAMS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        return path

    return fetch


def _read_ranges(url: str, starts: queue.SimpleQueue[int], part: int, size: int, file: int) -> None:
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=_TIMEOUT)
    buffer = memoryview(bytearray(_BUFFER))
    with contextlib.closing(connection), contextlib.suppress(queue.Empty):
        while True:
            position = starts.get_nowait()
            stop = min(position + part, size)
            connection.request("GET", f"{where.path}?{where.query}", headers={"Range": f"bytes={position}-{stop - 1}"})
            response = connection.getresponse()
            if response.status != http.HTTPStatus.PARTIAL_CONTENT:
                raise SystemExit(f"{url} answered {response.status}")
            while count := response.readinto(buffer):
                os.pwrite(file, buffer[:count], position)
                position += count


def decant(url: str, client: str, endpoint: str, environ: dict[str, str]) -> Fetch:
    options = StorageOptions(s3_endpoint=endpoint, client=client, environ=environ)
    storage = open_storage(url, options)
    version = ModelRepository("m", storage).find(1)

    def fetch(directory: Path) -> Path:
        with DiskCache(directory, 1 << 40).lease(version) as files:
            return files.directory / "model.onnx"

    return fetch


@contextlib.contextmanager
def s3(directory: Path, source: Path, *, in_parts: bool) -> Iterator[Store]:
    with seaweedfs(directory, BUCKET) as server:
        client = server.client()
        # An object put at once has its MD5 for an ETag, which Decant then checks; one put in parts has not.
        if in_parts:
            client.upload_file(str(source), BUCKET, KEY)
        else:
            with source.open("rb") as file:
                client.put_object(Bucket=BUCKET, Key=KEY, Body=file)
        signed = client.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": KEY}, ExpiresIn=3600)

        def download_file(directory: Path) -> Path:
            path = directory / "model.onnx"
            client.download_file(BUCKET, KEY, str(path))
            return path

        with _environment(server.admin.env()) as environ:
            yield Store(
                f"S3 (SeaweedFS), {'no checksum' if in_parts else 'MD5'}",
                {
                    "bare ranged reads": bare(signed, source.stat().st_size),
                    "SDK: boto3 download_file": download_file,
                    "Decant, sdk": decant(f"s3://{BUCKET}/m", "sdk", server.endpoint, environ),
                    "Decant, obstore": decant(f"s3://{BUCKET}/m", "obstore", server.endpoint, environ),
                },
            )


@contextlib.contextmanager
def gcs(directory: Path, source: Path) -> Iterator[Store]:
    with fake_gcs(directory) as server:
        server.create_bucket(BUCKET)
        blob = server.client.bucket(BUCKET).blob(KEY)
        blob.upload_from_filename(str(source), timeout=600)

        def download(directory: Path) -> Path:
            path = directory / "model.onnx"
            blob.download_to_filename(str(path))
            return path

        with _environment(server.env()) as environ:
            yield Store(
                "GCS (fake-gcs-server), CRC-32C",
                {
                    "bare ranged reads": bare(f"{server.endpoint}/{BUCKET}/{KEY}", source.stat().st_size),
                    "SDK: download_to_filename": download,
                    "Decant, sdk": decant(f"gs://{BUCKET}/m", "sdk", "", environ),
                    "Decant, obstore": decant(f"gs://{BUCKET}/m", "obstore", "", environ),
                },
            )


@contextlib.contextmanager
def azure(directory: Path, source: Path) -> Iterator[Store]:
    with azurite(directory) as server:
        server.create_container(BUCKET)
        blob = server.client.get_blob_client(BUCKET, KEY)
        with source.open("rb") as file:
            # One block after the other: it resets connections when a large blob comes in several at once.
            blob.upload_blob(file, timeout=600)
        signed = f"{server.account_url()}/{BUCKET}/{KEY}?{server.sas(BUCKET)}"

        def download(directory: Path) -> Path:
            path = directory / "model.onnx"
            with path.open("wb") as file:
                blob.download_blob(max_concurrency=STREAMS).readinto(file)
            return path

        with _environment(server.env()) as environ:
            yield Store(
                "Azure (Azurite), no checksum",
                {
                    "bare ranged reads": bare(signed, source.stat().st_size),
                    "SDK: download_blob, 8 at once": download,
                    "Decant, sdk": decant(f"az://{BUCKET}/m", "sdk", "", environ),
                    "Decant, obstore": decant(f"az://{BUCKET}/m", "obstore", "", environ),
                },
            )


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[dict[str, str]]:
    """Let the SDKs find these in the environment; give all of it."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield dict(os.environ)
    finally:
        os.environ.clear()
        os.environ.update(before)


def measure(store: Store, source: Path, runs: int, scratch: Path) -> list[Result]:
    size = source.stat().st_size
    results = [Result(store.name, size, contender) for contender in store.contenders]
    for number in range(runs + 1):
        # Each begins in its turn: what was written and removed just before may still keep the disk busy.
        first = number % len(results)
        for result in results[first:] + results[:first]:
            with tempfile.TemporaryDirectory(dir=scratch) as directory:
                started = time.perf_counter()
                path = store.contenders[result.contender](Path(directory))
                seconds = time.perf_counter() - started
                if not filecmp.cmp(path, source, shallow=False):
                    raise SystemExit(f"{result.contender}: what came is not what was uploaded")
            label = f"run {number} of {runs}" if number else "warm-up"
            _say(f"{label}: {store.name}, {size / MEGABYTE:.0f} MB, {result.contender}: {seconds:.3f} s")
            if number:
                result.seconds.append(seconds)
    return results


def table(results: Sequence[Result]) -> str:
    lines = [
        "| store | MB | client | median MB/s | slowest | quickest | / bare | / SDK |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for result in results:
        same = [other for other in results if (other.store, other.size) == (result.store, result.size)]
        megabytes = result.size / MEGABYTE
        slowest, quickest = megabytes / max(result.seconds), megabytes / min(result.seconds)
        lines.append(
            f"| {result.store} | {megabytes:.0f} | {result.contender} | {result.rate:.0f} | {slowest:.0f} | "
            f"{quickest:.0f} | {result.rate / same[0].rate:.2f} | {result.rate / same[1].rate:.2f} |"
        )
    return "\n".join(lines)


def _stores(source: Path, directory: Path, names: Sequence[str]) -> Iterator[contextlib.AbstractContextManager[Store]]:
    makers: dict[str, list[Callable[[Path], Any]]] = {
        "s3": [lambda home: s3(home, source, in_parts=True), lambda home: s3(home, source, in_parts=False)],
        "gcs": [lambda home: gcs(home, source)],
        "azure": [lambda home: azure(home, source)] if IS_INSTALLED else [],
    }
    for name in names:
        for maker in makers[name]:
            home = Path(tempfile.mkdtemp(dir=directory))
            yield maker(home)
            shutil.rmtree(home, ignore_errors=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="100,1000", help="megabytes, comma-separated")
    parser.add_argument("--stores", default="s3,gcs,azure", help="of s3, gcs, azure, comma-separated")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="where to download to")
    options = parser.parse_args()
    facts, results = machine(), []
    with tempfile.TemporaryDirectory(dir=options.directory) as scratch:
        for size in map(int, options.sizes.split(",")):
            source = Path(scratch, f"{size}.bin")
            with source.open("wb") as file:
                for _ in range(size):
                    file.write(os.urandom(MEGABYTE))
            for store in _stores(source, Path(scratch), options.stores.split(",")):
                with store as opened:
                    results += measure(opened, source, options.runs, Path(scratch))
                # A later server may fail.
                _say(table(results))
    print("\n".join(f"{name}: {fact}" for name, fact in facts.items()), end="\n\n")
    print(table(results))


if __name__ == "__main__":
    main()
