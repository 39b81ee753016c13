"""TensorFlow Serving's file of models: protobuf's text of a ModelServerConfig."""

from __future__ import annotations

from typing import Any

from handlers.settings import SettingsError
from runtime.errors import quoted


def parse_text(text: str) -> Any:
    """Return the ModelServerConfig.

    Raises:
        SettingsError: it is none, or protobuf is not there to tell.
    """
    try:
        from google.protobuf import text_format

        from runtime.codecs import schema
    except ModuleNotFoundError as exc:
        raise SettingsError(f"this needs {exc.name}, which is not installed; try: pip install 'decant[grpc]'") from exc
    message = schema.ModelServerConfig()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as exc:
        what = quoted(" ".join(str(exc).split()))
        raise SettingsError(f"Error parsing text-format tensorflow.serving.ModelServerConfig: {what}") from exc
    return message
