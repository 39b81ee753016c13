"""One fact per line on standard error. Logging is configured here and nowhere else."""

from __future__ import annotations

import logging

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure_logging(level: str) -> None:
    # Does nothing where a platform's runtime has set up a handler already, as Lambda's does.
    logging.basicConfig(format=FORMAT)
    logging.getLogger().setLevel(level)
    if level != "DEBUG":
        # They tell of every connection and credential look-up.
        for chatty in ("botocore", "boto3", "urllib3"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
