"""The Lambda entry point: run as ``python -m awslambdaric handlers.aws_lambda.handler``. All happens at import."""

from __future__ import annotations

from handlers.lambda_init import EAGER, start
from handlers.logs import configure_logging
from handlers.settings import initialization_type, read_settings

_kind = initialization_type()
# /tmp is all that can be written to, and only this function's environment sees it. Where a request waits for the model,
# an inference to warm up with would only come before its own.
_settings = read_settings({}, {"cache_dir": "/tmp/decant", "enable_signature_warmup": _kind in EAGER})
configure_logging(_settings.log_level)
handler = start(_settings, _kind)
