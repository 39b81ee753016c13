"""What lies beside a version's files on disk and says what they are: which model's, from where, and their CRC-32Cs."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from model_cache.crc32c import combined
from model_cache.download import RESERVED, Span, is_intact
from model_cache.repository import ModelVersion

NAME = f"{RESERVED}.json"
_FORMAT = 1
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Manifest(NamedTuple):
    model: str
    version: int
    source: str
    """The URL that the version was fetched from."""
    fetched: float
    """Seconds since the epoch."""
    boot: str
    """Of which run of the machine the writes may not have reached the disk yet; empty if they have."""
    files: Mapping[str, list[Span]]
    """By path, what the file consists of."""

    @classmethod
    def of(cls, version: ModelVersion, files: Mapping[PurePosixPath, list[Span]], *, is_synced: bool) -> Manifest:
        return cls(
            model=version.id.name,
            version=version.id.version,
            source=str(version.storage),
            fetched=time.time(),
            boot="" if is_synced else boot_id(),
            files={str(path): sorted(spans) for path, spans in files.items()},
        )

    @property
    def has_lost_power(self) -> bool:
        """Whether the machine may have stopped before all was on its disk."""
        return self.boot not in ("", boot_id())

    def damaged(self, directory: Path) -> list[str]:
        """Read every file; return those that are not what they were."""
        return [
            path
            for path, spans in self.files.items()
            if not _is_covered(directory / path, spans) or not all(is_intact(directory / path, span) for span in spans)
        ]

    def crc32c(self, path: str) -> int | None:
        """Return the checksum of a whole file, as it was fetched; None if its parts do not tell."""
        position = crc32c = 0
        for span in sorted(self.files.get(path, [])):
            if span.start != position:
                return None
            crc32c = combined(crc32c, span.crc32c, span.stop - span.start)
            position = span.stop
        return crc32c if path in self.files else None

    def write(self, directory: Path) -> None:
        # Renamed into place: what reads it finds all of it or what was there before. Others may be writing theirs.
        new = directory / f"{NAME}.{os.getpid()}-{time.monotonic_ns()}"
        try:
            new.write_text(json.dumps({"format": _FORMAT, **self._asdict()}))
            new.replace(directory / NAME)
        except BaseException:
            new.unlink(missing_ok=True)
            raise

    def with_boot(self, boot: str) -> Manifest:
        return self._replace(boot=boot)


def read_manifest(directory: Path) -> Manifest | None:
    """Return what a directory says of itself, or None if it says nothing that can be understood."""
    try:
        content = json.loads((directory / NAME).read_bytes())
        if content.pop("format") != _FORMAT:
            return None
        files = {str(path): [Span(*map(int, span)) for span in spans] for path, spans in content.pop("files").items()}
        return Manifest(**content, files=files)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    # Somebody else's file, or one that a power cut has left half written.
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None


def _is_covered(path: Path, spans: list[Span]) -> bool:
    """Whether spans are all of a file and nothing else."""
    position = 0
    for span in sorted(spans):
        if not (0 <= span.start <= position and span.start < span.stop):
            return False
        position = max(position, span.stop)
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == position


def boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    # Some sandboxes have no /proc. They do not outlive a power cut either.
    except OSError:
        return "unknown"


def sync(directory: Path, files: Mapping[PurePosixPath, object]) -> None:
    """Wait until files, and the directories they are in, are on the disk itself."""
    for path in {*files, *(parent for file in files for parent in file.parents)}:
        handle = os.open(directory / path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
