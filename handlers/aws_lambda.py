"""The Lambda entry point: run as ``python -m awslambdaric handlers.aws_lambda.handler``. All happens at import."""

from __future__ import annotations

from handlers.lambda_init import EAGER, start
from handlers.logs import configure_logging
from handlers.settings import initialization_type, read_settings

_kind = initialization_type()
_settings = read_settings(
    {},
    {
        # All that can be written to.
        "cache_dir": "/tmp/decant",
        # It is this environment's alone, and goes with it: no later process would find what is kept there.
        "keep_compiled": False,
        # Whoever asks reaches one environment of many, which nobody chooses.
        "model_control": False,
        # Where a request waits for the model, an inference to warm up with would only come before its own.
        "enable_signature_warmup": _kind in EAGER,
    },
)
configure_logging(_settings)
handler = start(_settings, _kind)
