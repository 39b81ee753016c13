"""Messages of SQS and SNS. Each is an object as for a direct invocation, or a notification of S3.

A message of a queue has to say where its answer is to be written, as nobody waits for it: ``{"output": "s3://..."}``.
Those that fail go back to the queue, which gives them to its dead-letter queue in the end.
https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from handlers.lambda_direct import is_call, loads
from handlers.lambda_failures import InvocationFailed, counts_of, tell_failure
from handlers.lambda_objects import Stored

if TYPE_CHECKING:
    from handlers.lambda_invocations import Invocations

logger = logging.getLogger(__name__)

_TOLD = 10
"""Messages of a batch whose failures are lines of the log, each."""


class _Message(NamedTuple):
    id: str
    payload: Any
    """What it says; or why that is not to be had."""
    objects: Collection[Stored] | None


class Messages:
    def __init__(self, invocations: Invocations) -> None:
        self._invocations = invocations

    def from_queue(self, event: Mapping[str, Any], context: Any, until: float | None) -> dict[str, Any]:
        """Answer a batch of SQS; return which messages have failed.

        Raises:
            InvocationFailed: all have, or it is no such batch.
        """
        records = event["Records"]
        messages = [self._read(record) for record in records]
        # The order is to be kept, so what comes behind one that has failed has to wait for it.
        is_fifo = str(records[0].get("eventSourceARN")).endswith(".fifo")
        looked = self._look(messages, until)
        failures: dict[str, InvocationFailed] = {}
        held = []
        for message in messages:
            if is_fifo and failures:
                held.append(message.id)
                continue
            failure = self._answer(message, looked, context, until)
            if failure is not None:
                failures[message.id] = failure
        if failures:
            self._tell(failures, len(held), len(messages), context)
        return {"batchItemFailures": [{"itemIdentifier": id} for id in (*failures, *held)]}

    def from_topic(self, event: Mapping[str, Any], context: Any, until: float | None) -> Any:
        """Answer a message of SNS, which sends one at a time.

        Raises:
            InvocationFailed: as a direct invocation.
        """
        answers = []
        for record in event["Records"]:
            notification = record.get("Sns")
            if not isinstance(notification, dict):
                raise _malformed("the record of SNS has no message")
            answers.append(self._invocations.answer(_read_text(notification.get("Message")), context, until))
        return answers[0] if len(answers) == 1 else answers

    def _read(self, record: Mapping[str, Any]) -> _Message:
        id = record.get("messageId")
        if not isinstance(id, str):
            raise _malformed("a record of SQS has no messageId")
        try:
            payload = _read_text(record.get("body"))
            # As SNS puts it into a queue, unless raw delivery is on.
            if isinstance(payload, dict) and payload.get("Type") == "Notification":
                payload = _read_text(payload.get("Message"))
            is_about_objects = isinstance(payload, dict) and not is_call(payload)
            return _Message(id, payload, self._invocations.objects.of(payload) if is_about_objects else None)
        except InvocationFailed as exc:
            return _Message(id, exc, None)

    def _look(self, messages: Sequence[_Message], until: float | None) -> InvocationFailed | None:
        """Look at the models that any of the messages is about, each once; return what has failed."""
        stored = {of: None for message in messages for of in message.objects or ()}
        if not stored:
            return None
        try:
            self._invocations.objects.look_at(stored.keys(), self._invocations.end(until))
        except InvocationFailed as exc:
            return exc
        return None

    def _answer(
        self, message: _Message, looked: InvocationFailed | None, context: Any, until: float | None
    ) -> InvocationFailed | None:
        """Do what a message says; return why that has failed."""
        if isinstance(message.payload, InvocationFailed):
            return message.payload
        if message.objects is not None:
            return looked
        if until is not None and time.monotonic() >= until:
            return InvocationFailed(503, "there was no time left for it")
        try:
            self._write_answer(message.payload, context, until)
        except InvocationFailed as exc:
            return exc
        return None

    def _write_answer(self, payload: Any, context: Any, until: float | None) -> None:
        if isinstance(payload, dict) and is_call(payload) and payload.get("output") is None:
            raise InvocationFailed(
                400, 'nobody waits for the answer; want {"output": "s3://bucket/key"} in the message'
            )
        self._invocations.answer(payload, context, until)

    def _tell(self, failures: Mapping[str, InvocationFailed], held: int, count: int, context: Any) -> None:
        for id, failure in list(failures.items())[:_TOLD]:
            logger.warning("message %s has failed: %s", id, failure)
        server = self._invocations.served.server
        first = next(iter(failures.values()))
        counts = counts_of(server, [(failure.status, failure.path) for failure in failures.values()])
        waiting = f", and {held} behind it wait; the first" if held else ", the first"
        text = f"{len(failures)} of {count} messages have failed{waiting} with {first}"
        # So it is one whether or not the queue's mapping reports each message's failure; and Lambda counts it.
        if len(failures) + held == count:
            raise InvocationFailed(
                first.status, text, kind="BatchFailed", what="messages", path=first.path, counts=counts
            )
        tell_failure(server, context, first.status, "messages", text, first.path, counts)


def _read_text(text: Any) -> Any:
    if not isinstance(text, str):
        raise _malformed("the message is no text")
    try:
        return loads(text)
    except ValueError as exc:
        raise _malformed(f"the message is no JSON: {exc}") from exc


def _malformed(message: str) -> InvocationFailed:
    return InvocationFailed(400, message, what="messages")
