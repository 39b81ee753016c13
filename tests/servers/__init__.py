"""The real servers and clients that the tests run. Each is a child process (the fault proxy, threads) that listens
on 127.0.0.1 only, writes its log to a file, and is gone when its ``with`` block ends."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def tool(path: str) -> Path:
    """Return a file or directory that ``make setup`` installs under ``.tools``."""
    found = ROOT / ".tools" / path
    if not found.exists():
        raise FileNotFoundError(f"{found.relative_to(ROOT)} is missing: run 'make setup'")
    return found
