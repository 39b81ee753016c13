"""What can go wrong with a request once it has a model. Knows nothing of transports.

::

    InferenceError
    +-- InvalidRequest      the client's: malformed, or does not fit the signature
    +-- SignatureNotFound   the client's: the model has no signature of that name
    +-- PayloadTooLarge     the client's: more bytes than this server takes
    +-- RequestTimeout      the client's: its request did not come to an end
    +-- Unsupported         a well-formed request for what Decant does not do
    +-- PreconditionFailed  a well-formed request that the state of the server does not allow
    +-- DeadlineExceeded    the client's deadline, or the server's for one request, has passed
    +-- Overloaded          more work is waiting than will be done in time
    +-- InferenceFailed     the engine could not run a request that fits the signature
"""

QUOTED = 256
"""Bytes of a request that an error quotes at most; one that quotes several things of it takes less of each."""
NAME = 80
"""Bytes of a name in it."""


def quoted(text: str, limit: int = QUOTED) -> str:
    """Cut text of a request to what may be quoted of it, in bytes. What is no UTF-8 is replaced."""
    raw = text[: limit + 1].encode(errors="replace")
    return raw.decode() if len(raw) <= limit else f"{raw[:limit].decode(errors='ignore')}..."


class InferenceError(Exception):
    """Base of this package's errors."""


class InvalidRequest(InferenceError):
    pass


class SignatureNotFound(InferenceError):
    pass


class PayloadTooLarge(InferenceError):
    pass


class RequestTimeout(InferenceError):
    pass


class Unsupported(InferenceError):
    pass


class PreconditionFailed(InferenceError):
    pass


class DeadlineExceeded(InferenceError):
    pass


class Overloaded(InferenceError):
    pass


class InferenceFailed(InferenceError):
    pass
