"""Upload a model to an S3 server that may still be starting: ``upload.py DIRECTORY s3://BUCKET/PREFIX``.

A job in Decant's image, which has boto3; address and credentials are in the environment, as AWS's SDK reads them.
Exit code 1, and one line, if it could not be done within a minute.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import S3UploadFailedError
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

PATIENCE = 60.0
"""Seconds for the server to start, its bucket included."""
PAUSE = 0.5

# One attempt, as we try again ourselves, and no wait for a server that takes connections before it can answer.
CONFIG = Config(connect_timeout=5, read_timeout=60, retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})


def main(directory: str, url: str) -> None:
    target = urlsplit(url)
    if target.scheme != "s3" or not target.netloc:
        sys.exit(f"upload to {url!r}; want s3://bucket/prefix")
    files = list(_files(Path(directory)))
    if not files:
        sys.exit(f"no version of a model below {directory}; want {directory}/1/model.xml or the like")
    client: Any = boto3.client("s3", config=CONFIG)
    deadline = time.monotonic() + PATIENCE
    for file in files:
        key = f"{target.path.strip('/')}/{file.relative_to(directory).as_posix()}".lstrip("/")
        try:
            _persistently(partial(client.upload_file, str(file), target.netloc, key), deadline)
        except (BotoCoreError, ClientError, S3UploadFailedError, OSError) as exc:
            sys.exit(f"could not upload {file} to s3://{target.netloc}/{key}: {exc}")
        say(f"uploaded s3://{target.netloc}/{key}, {file.stat().st_size:,} bytes")


def _files(directory: Path) -> Iterator[Path]:
    """What is in the directories of versions, which are called by numbers; what else lies there is nobody's model."""
    for version in sorted(directory.glob("[0-9]*")):
        if version.name.isdecimal():
            yield from sorted(path for path in version.rglob("*") if path.is_file())


def _persistently(attempt: Callable[[], object], deadline: float) -> None:
    """A server that starts refuses connections, then has no bucket, then nowhere to put objects."""
    while True:
        try:
            attempt()
        except (BotoCoreError, ClientError, S3UploadFailedError):
            if time.monotonic() > deadline:
                raise
            time.sleep(PAUSE)
        else:
            return


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: upload.py DIRECTORY s3://BUCKET/PREFIX")
    main(*sys.argv[1:])
