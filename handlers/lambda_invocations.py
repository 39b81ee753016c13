"""Events of a Lambda function that are no HTTP requests: what they are, and what answers them.

Imported when the first of them comes. An answer is a JSON object. Whatever is wrong is raised, so that Lambda counts it
and tells it, and tries again where it does that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from handlers.configuration import Configuration, ModelConfig
from handlers.eager import eager
from handlers.lambda_direct import answer_of, call_of, is_call
from handlers.lambda_failures import InvocationFailed
from handlers.settings import Settings
from model_cache.errors import LoadPending, ModelCacheError
from runtime.answers import Answer
from runtime.server import ModelServer
from runtime.status import KNOWN, http_status_of, is_ours, public_message
from runtime.within import begin, outcome

if TYPE_CHECKING:
    from handlers.lambda_messages import Messages
    from handlers.lambda_objects import Objects
    from handlers.lambda_output import Outputs

logger = logging.getLogger(__name__)

_MAX_RECORDS = 10_000
"""Messages that SQS hands over at once, at most."""
_SCHEDULERS = ("aws.events", "aws.scheduler")

Infer = Callable[[str, bytes, bytes, float | None, Any], Answer]
"""(method, path, body, until, context) -> the answer to a request."""


class Served(NamedTuple):
    settings: Settings
    server: ModelServer
    configuration: Callable[[], Configuration]
    """What it has now."""
    is_lazy: bool
    """Whether models of which nothing is said are loaded by their first request."""
    reload: Callable[[], bool]
    """Has the file with the models looked at."""


class Invocations:
    def __init__(self, served: Served, infer: Infer) -> None:
        self.served = served
        self._infer = infer
        # The last one that was begun.
        self._warming: dict[tuple[str, ...], tuple[Future[None], Mapping[str, ModelCacheError | None]]] = {}

    def __call__(self, event: Any, context: Any, until: float | None) -> Any:
        """Answer an event.

        Args:
            event: as it came.
            context: of the invocation.
            until: moment of the monotonic clock by which there has to be an answer.

        Raises:
            InvocationFailed: it is none that is known, or what it asks for has failed.
        """
        source = _source_of_records(event)
        if source == "aws:sqs":
            return self._messages.from_queue(event, context, until)
        if source == "aws:sns":
            return self._messages.from_topic(event, context, until)
        return self.answer(event, context, until)

    def answer(self, event: Any, context: Any, until: float | None) -> Any:
        """Answer an event that is none of messages.

        Raises:
            InvocationFailed: as above.
        """
        if not isinstance(event, dict):
            raise InvocationFailed.unknown(event)
        try:
            if is_call(event):
                return self._call(event, context, until)
            if _is_ping(event):
                return self._warm_up(event, until)
            if event.get("doctor") is True:
                return self._examine(context, until)
            objects = self.objects.of(event)
            if objects is not None:
                return self.objects.look_at(objects, self.end(until))
        except InvocationFailed:
            raise
        except KNOWN as exc:
            raise failed(exc) from exc
        raise InvocationFailed.unknown(event)

    def end(self, until: float | None) -> float:
        """Return until when to wait, in an invocation that may have no end."""
        return time.monotonic() + self.served.settings.load_timeout if until is None else until

    def eager_models(self) -> Sequence[ModelConfig]:
        served = self.served
        return eager(self._models(), served.settings, is_lazy=served.is_lazy)

    @cached_property
    def outputs(self) -> Outputs:
        from handlers.lambda_output import Outputs

        return Outputs(self.served.settings.lambda_outputs, self.served.settings.storage_options, self._places)

    def _places(self) -> Sequence[str]:
        """Return where models, and what says which there are, come from."""
        file = self.served.settings.model_config_file
        return [*(model.base_path for model in self.served.configuration().models), *([file] if file else [])]

    def _call(self, event: Mapping[str, Any], context: Any, until: float | None) -> Any:
        call = call_of(event, self.served.server.repositories)
        place = None if call.output is None else self.outputs.place(call.output)
        answer = self._infer(call.method, call.path, call.body, until, context)
        if place is None:
            return answer_of(call, answer)
        answer_of(call, answer, is_sent=False)
        self.outputs.write(place, answer.body, self.end(until))
        return {"output": call.output, "bytes": len(answer.body)}

    def _warm_up(self, event: Mapping[str, Any], until: float | None) -> Any:
        """Have the models loaded that should be, and the newest versions of them."""
        models = self._asked_for(event)
        end = self.end(until)
        loading, outcomes = self._begin_to_load(models, end)
        try:
            outcome(loading, end, "not all models are warm yet")
        # It goes on with the next event.
        except LoadPending as exc:
            logger.warning("%s", exc)
        errors = {name: exc for name, exc in list(outcomes.items()) if exc is not None}
        if errors:
            told = "; ".join(f"{name}: {public_message(exc)}" for name, exc in errors.items())
            status = max(map(http_status_of, errors.values()))
            first = f"/v1/models/{next(iter(errors))}".encode(errors="replace")
            raise InvocationFailed(status, f"not warm: {told}", what="warm-up", path=first)
        pending = [model.name for model in models if model.name not in outcomes]
        warm, repositories = self._loaded(), self.served.server.repositories
        if pending and not warm and all(repositories[name].known is None for name in pending):
            first = f"/v1/models/{pending[0]}".encode(errors="replace")
            text = f"not warm: the storage has not answered yet what there is of {', '.join(pending)}"
            raise InvocationFailed(503, text, what="warm-up", path=first)
        return {"warm": warm, "pending": pending}

    def _begin_to_load(
        self, models: Sequence[ModelConfig], until: float
    ) -> tuple[Future[None], Mapping[str, ModelCacheError | None]]:
        """Begin to load models one after the other, unless that is under way; return what becomes of each."""
        names = tuple(model.name for model in models)
        begun = self._warming.get(names)
        if begun is not None and not begun[0].done():
            return begun
        outcomes: dict[str, ModelCacheError | None] = {}

        def load() -> None:
            for model in models:
                try:
                    self._bring_up_to_date(model, until)
                    outcomes[model.name] = None
                except ModelCacheError as exc:
                    logger.warning("%s is not loaded: %s", model.name, exc)
                    outcomes[model.name] = exc

        self._warming = {names: (begin(load), outcomes)}
        return self._warming[names]

    def _asked_for(self, event: Mapping[str, Any]) -> Sequence[ModelConfig]:
        names = event.get("models")
        if names is None:
            return self.eager_models()
        models = {model.name: model for model in self._models()}
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InvocationFailed(400, "models is no list of names", what="warm-up")
        for name in names:
            if name not in models:
                raise InvocationFailed(404, f"models names {name!r}, which is no model", what="warm-up")
        return [models[name] for name in dict.fromkeys(names)]

    def _models(self) -> Sequence[ModelConfig]:
        # A file may name some whose storage cannot be opened.
        repositories = self.served.server.repositories
        return [model for model in self.served.configuration().models if model.name in repositories]

    def _bring_up_to_date(self, model: ModelConfig, until: float) -> None:
        repository = self.served.server.repositories[model.name]
        try:
            repository.relist(until)
        # What is known goes on serving; and where nothing is, that is why it cannot be loaded.
        except ModelCacheError as exc:
            logger.warning("%s: its versions are not known: %s", model.name, exc)
        self.served.server.renew(model.name, every=model.policy is not None)

    def _loaded(self) -> dict[str, str]:
        server = self.served.server
        found = {name: server.peek(name) for name in server.repositories}
        return {name: str(id.version) for name, id in found.items() if id is not None}

    def _examine(self, context: Any, until: float | None) -> Any:
        from handlers.doctor.report import as_json

        # It keeps a margin of its own.
        left = getattr(context, "get_remaining_time_in_millis", None)
        remaining = left() / 1e3 if left else self.end(until) - time.monotonic()
        return as_json(self.served.settings, remaining=remaining)

    @cached_property
    def _messages(self) -> Messages:
        from handlers.lambda_messages import Messages

        return Messages(self)

    @cached_property
    def objects(self) -> Objects:
        from handlers.lambda_objects import Objects

        return Objects(self.served, self.eager_models)


def failed(exc: Exception, what: str = "invocation") -> InvocationFailed:
    """Return what an error of ours is to whoever has invoked the function, and log what concerns who runs it."""
    if is_ours(exc):
        logger.warning("%s: %s", what, exc)
    return InvocationFailed(http_status_of(exc), public_message(exc), what=what)


def _is_ping(event: Mapping[str, Any]) -> bool:
    if event.get("warmup") is True or event.get("source") == "serverless-plugin-warmup":
        return True
    return event.get("source") in _SCHEDULERS and event.get("detail-type") == "Scheduled Event"


def _source_of_records(event: Any) -> str | None:
    """Return who has sent an event of records.

    Raises:
        InvocationFailed: they are not all from there, or more than anybody sends at once.
    """
    records = event.get("Records") if isinstance(event, dict) else None
    if not isinstance(records, list):
        return None
    if len(records) > _MAX_RECORDS:
        raise InvocationFailed(400, f"the event has {len(records)} records; want {_MAX_RECORDS} at most")
    # SNS writes it otherwise.
    sources = {
        str(record.get("eventSource") or record.get("EventSource")) if isinstance(record, dict) else ""
        for record in records
    }
    return sources.pop() if len(sources) == 1 else None
