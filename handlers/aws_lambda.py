"""The Lambda entry point: run as ``python -m awslambdaric handlers.aws_lambda.handler``.

Everything is built at import, in the init phase; the model is loaded by the first request. There is one request at a
time, so it is answered on the spot, without a thread.
"""

from __future__ import annotations

from collections.abc import Callable

from mangum import Mangum
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from handlers.build import build_server
from handlers.logs import configure_logging
from handlers.settings import read_settings
from runtime.openvino_core import openvino
from runtime.rest import create_app


async def _inline(call: Callable[[], Response]) -> Response:
    return call()


async def _as_sent(scope: Scope, receive: Receive, send: Send) -> None:
    """Call the application with the path as it was sent, which Mangum decodes: a name may have a slash in it."""
    event = scope["aws.event"]
    # HTTP APIs decode it themselves.
    path: str = event.get("rawPath") or event.get("path") or "/"
    await _app({**scope, "raw_path": path.encode(errors="replace")}, receive, send)


# /tmp is all that can be written to, and only this function's environment sees it. A model is loaded for a request that
# waits for it, so an inference to warm up with would only come before its own.
_settings = read_settings({}, {"cache_dir": "/tmp/decant", "enable_signature_warmup": False})
configure_logging(_settings.log_level)
_server = build_server(_settings)
# The init phase has a whole core, whatever the function's memory buys.
openvino()

# Ready without a model, as every request brings what it needs.
_app = create_app(
    _server,
    _inline,
    _settings.max_body_size,
    is_ready=lambda: True,
    timeout=_settings.rest_api_timeout_in_ms / 1000,
    has_cors=_settings.rest_api_enable_cors_support,
)
handler = Mangum(_as_sent, lifespan="off")
