"""How a download shows itself: as a bar where a person looks on, and otherwise by the log's one line at its end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from model_cache.download import Progress
from model_cache.repository import ModelVersion


@contextmanager
def watch(version: ModelVersion) -> Iterator[Progress]:
    if not sys.stderr.isatty():
        yield lambda size: None
        return
    # Only here, as nobody waits for it on a serverless platform.
    from tqdm import tqdm

    # It would start a thread that watches over bars that stand still.
    tqdm.monitor_interval = 0
    with tqdm(total=version.size, desc=str(version), unit="B", unit_scale=True, leave=False) as bar:
        yield bar.update
