"""The one table from errors to what the wire says: gRPC's code numbers, and TensorFlow Serving's HTTP status for each.

HTTP statuses are those of tensorflow_serving's ``model_servers/http_server.cc``, but for 413, as TensorFlow Serving has
no body limit, and for 412, which is OpenVINO Model Server's.
"""

from __future__ import annotations

from enum import IntEnum

from model_cache import errors as cache
from runtime import errors


class Code(IntEnum):
    """gRPC's status codes, which are TensorFlow's ``error::Code`` too."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


CODES: dict[type[BaseException], Code] = {
    errors.InvalidRequest: Code.INVALID_ARGUMENT,
    errors.SignatureNotFound: Code.FAILED_PRECONDITION,
    errors.PayloadTooLarge: Code.RESOURCE_EXHAUSTED,
    errors.RequestTimeout: Code.DEADLINE_EXCEEDED,
    errors.NoSuchPath: Code.NOT_FOUND,
    errors.MethodNotAllowed: Code.UNIMPLEMENTED,
    errors.Unsupported: Code.UNIMPLEMENTED,
    errors.PreconditionFailed: Code.FAILED_PRECONDITION,
    errors.ConfigRejected: Code.FAILED_PRECONDITION,
    errors.ConfigUnreadable: Code.INTERNAL,
    errors.DeadlineExceeded: Code.DEADLINE_EXCEEDED,
    errors.Overloaded: Code.UNAVAILABLE,
    errors.SequenceNotFound: Code.NOT_FOUND,
    errors.SequenceExists: Code.ALREADY_EXISTS,
    errors.SequenceEnding: Code.FAILED_PRECONDITION,
    errors.TooManySequences: Code.UNAVAILABLE,
    errors.InferenceFailed: Code.INTERNAL,
    cache.ModelNotFound: Code.NOT_FOUND,
    cache.StorageUnavailable: Code.UNAVAILABLE,
    cache.DiskUnusable: Code.UNAVAILABLE,
    cache.DiskFull: Code.RESOURCE_EXHAUSTED,
    cache.LoadFailed: Code.FAILED_PRECONDITION,
    cache.ModelTooLarge: Code.RESOURCE_EXHAUSTED,
    cache.CacheFull: Code.UNAVAILABLE,
    cache.LoadPending: Code.UNAVAILABLE,
}

HTTP: dict[Code, int] = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
}

# Where the code alone would blame the wrong side, or hide which limit it was.
_HTTP_OF: dict[type[BaseException], int] = {
    errors.PayloadTooLarge: 413,
    errors.MethodNotAllowed: 405,
    # OpenVINO Model Server's.
    errors.CannotReshape: 412,
    errors.RequestTimeout: 408,
    errors.SequenceEnding: 412,
    errors.ConfigRejected: 412,
    cache.LoadFailed: 503,
    cache.ModelTooLarge: 507,
    cache.DiskFull: 507,
}

KNOWN = (errors.InferenceError, cache.ModelCacheError)
"""What is answered with its own message. Anything else is a bug: nothing of it is shown."""


def code_of(error: BaseException) -> Code:
    """Return the code of the nearest base class listed; INTERNAL if none is."""
    return next((CODES[cls] for cls in type(error).__mro__ if cls in CODES), Code.INTERNAL)


def http_status_of(error: BaseException) -> int:
    special = next((_HTTP_OF[cls] for cls in type(error).__mro__ if cls in _HTTP_OF), None)
    return special or HTTP[code_of(error)]


# Somebody has to act, or wants to know. What the server is too busy for is no news, and the clients see it.
_OURS = (
    errors.InferenceFailed,
    errors.ConfigRejected,
    errors.ConfigUnreadable,
    cache.StorageUnavailable,
    cache.DiskUnusable,
    cache.LoadFailed,
    cache.ModelTooLarge,
)


def is_ours(error: BaseException) -> bool:
    """Whether the error is the server's and not known yet, so that whoever answers with it logs it."""
    return isinstance(error, _OURS) and not getattr(error, "is_repeated", False)


def public_message(error: BaseException) -> str:
    """Return what a client is told. Where models are stored is the operator's business, and stands in the log."""
    if isinstance(error, cache.StorageUnavailable):
        return "the model's storage cannot be read now; the server's log says why"
    return str(error)
