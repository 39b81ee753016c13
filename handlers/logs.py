"""One fact per line on standard error. Logging is configured here and nowhere else."""

from __future__ import annotations

import logging

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure_logging(level: str) -> None:
    logging.basicConfig(level=level, format=FORMAT, force=True)
    if level != "DEBUG":
        # They tell of every connection and credential look-up.
        for chatty in ("botocore", "boto3", "urllib3", "uvicorn.error"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
