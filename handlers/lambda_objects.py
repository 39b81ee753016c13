"""Notifications of S3, direct or through EventBridge: models whose files have come or gone are looked at anew.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

from handlers.configuration import ModelConfig
from handlers.lambda_failures import InvocationFailed
from handlers.lambda_invocations import Served, failed
from model_cache.errors import CacheFull, LoadPending, ModelCacheError, StorageUnavailable
from model_cache.s3_location import locate
from runtime.status import KNOWN, public_message
from runtime.within import within

logger = logging.getLogger(__name__)

_OF_EVENTBRIDGE = ("Object Created", "Object Deleted")
_MAX_NAMED = 20
"""Objects that an answer names."""
_PASSING = (StorageUnavailable, LoadPending, CacheFull)
"""After which Lambda, or the queue, is to try again. A version that is broken, or not yet whole, is none: whatever is
uploaded next is another event."""


class Stored(NamedTuple):
    bucket: str
    key: str


class Objects:
    def __init__(self, served: Served, eager_models: Callable[[], Sequence[ModelConfig]]) -> None:
        self._served = served
        self._eager_models = eager_models

    def of(self, event: Mapping[str, Any]) -> Collection[Stored] | None:
        """Return the objects that an event is about; None if it is about none.

        Raises:
            InvocationFailed: it is not what S3 sends.
        """
        try:
            if event.get("source") == "aws.s3" and event.get("detail-type") in _OF_EVENTBRIDGE:
                detail = event["detail"]
                return [_stored(detail["bucket"]["name"], detail["object"]["key"])]
            if event.get("Event") == "s3:TestEvent":
                return []
            records = event.get("Records")
            if not isinstance(records, list) or not records or not isinstance(records[0], dict):
                return None
            if records[0].get("eventSource") != "aws:s3":
                return None
            found = [record["s3"] for record in records]
            # As in a form.
            return {_stored(of["bucket"]["name"], unquote_plus(of["object"]["key"])): None for of in found}.keys()
        except (KeyError, TypeError, AttributeError) as exc:
            raise InvocationFailed(400, "the event is said to be S3's, and names no bucket or no key") from exc

    def look_at(self, objects: Collection[Stored], until: float) -> dict[str, Any]:
        """Look at the models that these belong to; return what there is of them now.

        Raises:
            InvocationFailed: it cannot be known now, and might be later.
        """
        # It may be below a model's place, and is none of its files.
        files = [stored for stored in objects if not self._is_configuration(stored)]
        models = self._covering(files)
        answer: dict[str, Any] = {name: self._look(model, until) for name, model in models.items()}
        ignored = [stored for stored in files if not any(_covers(model, stored) for model in models.values())]
        if len(files) < len(objects):
            self._reload(until)
        named = [f"s3://{bucket}/{key}" for bucket, key in ignored[:_MAX_NAMED]]
        if ignored:
            logger.warning("%d objects belong to no model, such as %r", len(ignored), named[0])
        return {"models": answer, "ignored": named, "ignored_count": len(ignored)}

    def _covering(self, objects: Collection[Stored]) -> dict[str, ModelConfig]:
        repositories = self._served.server.repositories
        models = [model for model in self._served.configuration().models if model.name in repositories]
        return {model.name: model for model in models if any(_covers(model, stored) for stored in objects)}

    def _look(self, model: ModelConfig, until: float) -> dict[str, Any]:
        server = self._served.server
        what = f"look at {model.name}"
        try:
            server.repositories[model.name].relist(until)
            server.forgive()
            error = self._load(model, until)
        except KNOWN as exc:
            raise failed(exc, what) from exc
        serving = server.peek(model.name)
        found: dict[str, Any] = {
            "versions": [str(number) for number in sorted(server.repositories[model.name].known or (), reverse=True)],
            "loaded": None if serving is None else str(serving.version),
        }
        return found if error is None else {**found, "error": error}

    def _load(self, model: ModelConfig, until: float) -> str | None:
        """Load the newest version, unless the model is only loaded when it is asked for; return why it cannot be."""
        server = self._served.server
        is_wanted = server.peek(model.name) is not None or model.name in {some.name for some in self._eager_models()}
        if not is_wanted:
            return None
        try:
            within(
                lambda: server.renew(model.name, every=model.policy is not None),
                until,
                f"{model.name} is still loading",
            )
        except _PASSING:
            raise
        except ModelCacheError as exc:
            logger.warning("%s is not loaded: %s", model.name, exc)
            return public_message(exc)
        return self._newest_failure(model)

    def _newest_failure(self, model: ModelConfig) -> str | None:
        """Return why a newer version than the one that serves does not."""
        server = self._served.server
        serving = server.peek(model.name)
        for status in server.status(model.name):
            if serving is not None and status.version <= serving.version:
                return None
            if status.message:
                return f"version {status.version}: {status.message}"
        return None

    def _is_configuration(self, stored: Stored) -> bool:
        return self._served.settings.model_config_file == f"s3://{stored.bucket}/{stored.key}"

    def _reload(self, until: float) -> None:
        try:
            within(self._served.reload, until)
        except KNOWN as exc:
            raise failed(exc, "reload") from exc


def _stored(bucket: Any, key: Any) -> Stored:
    if not isinstance(bucket, str) or not isinstance(key, str):
        raise TypeError
    return Stored(bucket, key)


def _covers(model: ModelConfig, stored: Stored) -> bool:
    if not model.base_path.startswith("s3://"):
        return False
    location = locate(model.base_path, "")
    return location.bucket == stored.bucket and stored.key.startswith(location.prefix)
