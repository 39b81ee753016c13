"""One fact per line: on standard error, or wherever a platform's runtime has it. Logging is configured here alone."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from handlers.settings import Settings, SettingsError, is_serverless, logs_as_lambda_does

_FILE = "log_path"
"""The name of the handler that writes to a file of the settings'."""
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

logger = logging.getLogger(__name__)


class JsonFormatter(logging.Formatter):
    """An object per line, whatever is in the message."""

    def __init__(self, end: str = "") -> None:
        super().__init__()
        self._end = end

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {
            "time": f"{clock}.{int(record.msecs):03}Z",
            "level": record.levelname,
            # Google's name for it.
            "severity": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        # Lambda's runtime client has put it there.
        if request_id := getattr(record, "aws_request_id", ""):
            fields["requestId"] = request_id
        return json.dumps(fields) + self._end


def configure_logging(settings: Settings) -> None:
    """Log as the settings say from now on, whatever others have said before.

    Raises:
        SettingsError: the log file cannot be written.
    """
    is_json = settings.log_format == "json" or (settings.log_format == "auto" and is_serverless())
    # Does nothing where a platform's runtime has set up a handler already, as Lambda's does.
    logging.basicConfig(format=FORMAT)
    root = logging.getLogger()
    if is_json and not logs_as_lambda_does():
        for handler in root.handlers:
            # Lambda's does not end lines by itself.
            handler.setFormatter(JsonFormatter("" if isinstance(handler, logging.StreamHandler) else "\n"))
        _log_what_nobody_catches()
    for handler in [handler for handler in root.handlers if handler.name == _FILE]:
        root.removeHandler(handler)
        handler.close()
    if settings.log_path:
        root.addHandler(_file(settings.log_path, JsonFormatter() if is_json else logging.Formatter(FORMAT)))
    root.setLevel(settings.log_level)
    # It tells of every chunk of a picture.
    logging.getLogger("PIL").setLevel(max(root.level, logging.INFO))
    # They tell of every connection and credential look-up.
    for chatty in ("botocore", "boto3", "urllib3"):
        is_wanted = settings.log_level == "DEBUG"
        logging.getLogger(chatty).setLevel(logging.NOTSET if is_wanted else max(root.level, logging.WARNING))


def _file(path: str, formatter: logging.Formatter) -> logging.Handler:
    # Here, as it imports much and few want it.
    from logging.handlers import WatchedFileHandler

    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # It may be moved away by whoever keeps logs small, and several workers append to it.
        handler = WatchedFileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as exc:
        raise SettingsError(f"log_path is {path!r}; want a file that can be written: {exc.strerror}") from exc
    handler.setFormatter(formatter)
    handler.name = _FILE
    return handler


def _log_what_nobody_catches() -> None:
    """Make one line of what Python would print as many."""

    def of_main(kind: type[BaseException], exc: BaseException, traceback: TracebackType | None) -> None:
        logger.critical("uncaught %s", kind.__name__, exc_info=(kind, exc, traceback))

    def of_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            of_main(args.exc_type, args.exc_value, args.exc_traceback)

    sys.excepthook = of_main
    threading.excepthook = of_thread
