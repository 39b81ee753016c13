"""A process that leases versions from a directory that stands for a bucket, and says what it got.

Of each it writes a line: ``<number> fetched|found <SHA-256 over the files>``, or ``<number> failed <error>``.
"""

from __future__ import annotations

import argparse
import hashlib
import signal
import sys
import time
from pathlib import Path

from model_cache.disk import DiskCache
from model_cache.errors import ModelCacheError
from tests.model_cache.stores import DirectoryStorage, files_below, listed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bucket", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("root", type=Path)
    parser.add_argument("numbers", type=int, nargs="+")
    parser.add_argument("--budget", type=int, default=1 << 40)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds before each piece")
    parser.add_argument("--piece", type=int, default=1 << 20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--start", type=float, default=0.0, help="when to begin, in seconds since the epoch")
    parser.add_argument("--hold", action="store_true", help="hold the last lease until killed")
    arguments = parser.parse_args()
    storage = DirectoryStorage(arguments.bucket, arguments.log, pause=arguments.pause, piece=arguments.piece)
    cache = DiskCache(arguments.root, arguments.budget, threads=arguments.threads)
    say("ready")
    time.sleep(max(0.0, arguments.start - time.time()))
    for number in arguments.numbers:
        try:
            with cache.lease(listed(storage, number)) as files:
                fetched = "fetched" if files.fetched else "found"
                say(number, fetched, digest_of(files_below(files.directory)))
                if arguments.hold and number == arguments.numbers[-1]:
                    signal.pause()
        except ModelCacheError as exc:
            say(number, "failed", type(exc).__name__, exc)


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def digest_of(files: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, data in sorted(files.items()):
        digest.update(f"{name} {len(data)} ".encode())
        digest.update(data)
    return digest.hexdigest()


if __name__ == "__main__":
    main()
