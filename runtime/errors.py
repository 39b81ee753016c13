"""What can go wrong with a request once it has a model. Knows nothing of transports.

::

    InferenceError
    +-- InvalidRequest      the client's: malformed, or does not fit the signature
    +-- SignatureNotFound   the client's: the model has no signature of that name
    +-- PayloadTooLarge     the client's: more bytes than this server takes
    +-- RequestTimeout      the client's: its request did not come to an end
    +-- NoSuchPath          the client's: there is nothing at the path it asks for
    +-- MethodNotAllowed    the client's: there is, and it is asked for by another method
    +-- Unsupported         a well-formed request for what Decant does not do
    +-- PreconditionFailed  a well-formed request that the state of the server does not allow
    |   +-- CannotReshape   the model takes any shape, but it cannot be run in this one
    |   +-- ConfigRejected  what the configuration file says cannot be served
    +-- ConfigUnreadable    the configuration file is not there, or cannot be read
    +-- DeadlineExceeded    the client's deadline, or the server's for one request, has passed
    +-- Overloaded          more work is waiting than will be done in time
    +-- SequenceNotFound    the client's: a stateful model has no sequence of that id
    +-- SequenceExists      the client's: it has one already
    +-- SequenceEnding      the client's: it has one, and its last request is under way
    +-- TooManySequences    a stateful model has as many sequences as it may have
    +-- InferenceFailed     the engine could not run a request that fits the signature
"""

from reprlib import Repr

QUOTED = 256
"""Bytes of a request that an error quotes at most; one that quotes several things of it takes less of each."""
NAME = 80
"""Bytes of a name in it."""


class _Shown(Repr):
    """Of values that came as JSON, with its own words for them."""

    def repr_NoneType(self, value: None, level: int) -> str:
        return "null"

    def repr_bool(self, value: bool, level: int) -> str:
        return "true" if value else "false"


_SHOWN = _Shown()
_SHOWN.maxlevel, _SHOWN.maxdict, _SHOWN.maxlist, _SHOWN.maxstring, _SHOWN.maxother = 3, 8, 16, 200, 200


def quoted(text: str, limit: int = QUOTED) -> str:
    """Cut text of a request to what may be quoted of it, in bytes. What is no UTF-8 is replaced."""
    raw = text[: limit + 1].encode(errors="replace")
    return raw.decode() if len(raw) <= limit else f"{raw[:limit].decode(errors='ignore')}..."


def shown(value: object) -> str:
    """Return what an error quotes of a value that is no request's text, however large and deep it is."""
    return _SHOWN.repr(value)


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


class NoSuchPath(InferenceError):
    pass


class MethodNotAllowed(InferenceError):
    """
    Args:
        message: of the error.
        allow: the methods that are, as HTTP's header has them; empty if that is not known.
    """

    def __init__(self, message: str, allow: str = "") -> None:
        # Both, as an error is made anew of its args for each thread that raises it.
        super().__init__(message, allow)
        self.allow = allow

    def __str__(self) -> str:
        return str(self.args[0])


class Unsupported(InferenceError):
    pass


class PreconditionFailed(InferenceError):
    pass


class ConfigRejected(PreconditionFailed):
    """Its text begins as OpenVINO Model Server's."""

    def __str__(self) -> str:
        return f"Reloading config file failed. Check server logs for more info. {super().__str__()}".rstrip()


class ConfigUnreadable(InferenceError):
    """Its text begins as OpenVINO Model Server's."""

    def __str__(self) -> str:
        return f"Config file not found or cannot open. {super().__str__()}".rstrip()


class CannotReshape(PreconditionFailed):
    """Its text begins as OpenVINO Model Server's."""

    def __str__(self) -> str:
        return f"Model could not be reshaped with requested shape. {super().__str__()}".rstrip()


class DeadlineExceeded(InferenceError):
    pass


class Overloaded(InferenceError):
    pass


class SequenceNotFound(InferenceError):
    pass


class SequenceExists(InferenceError):
    pass


class SequenceEnding(InferenceError):
    pass


class TooManySequences(InferenceError):
    pass


class InferenceFailed(InferenceError):
    pass
