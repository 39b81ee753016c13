"""The one table from errors to the wire, held against every error that there is."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from model_cache import errors as cache
from runtime import errors
from runtime.status import CODES, HTTP, KNOWN, Code, code_of, http_status_of
from tests.runtime import oracle

# Everything that somebody may raise. An error that is missing here has been forgotten in the product's table too.
WANTED: dict[type[Exception], tuple[str, int]] = {
    errors.InferenceError: ("INTERNAL", 500),
    errors.InvalidRequest: ("INVALID_ARGUMENT", 400),
    errors.SignatureNotFound: ("FAILED_PRECONDITION", 400),
    errors.PayloadTooLarge: ("RESOURCE_EXHAUSTED", 413),
    errors.RequestTimeout: ("DEADLINE_EXCEEDED", 408),
    errors.NoSuchPath: ("NOT_FOUND", 404),
    errors.MethodNotAllowed: ("UNIMPLEMENTED", 405),
    errors.Unsupported: ("UNIMPLEMENTED", 501),
    errors.PreconditionFailed: ("FAILED_PRECONDITION", 400),
    errors.CannotReshape: ("FAILED_PRECONDITION", 412),
    errors.ConfigRejected: ("FAILED_PRECONDITION", 412),
    errors.ConfigUnreadable: ("INTERNAL", 500),
    errors.DeadlineExceeded: ("DEADLINE_EXCEEDED", 504),
    errors.Overloaded: ("UNAVAILABLE", 503),
    errors.SequenceNotFound: ("NOT_FOUND", 404),
    errors.SequenceExists: ("ALREADY_EXISTS", 409),
    errors.SequenceEnding: ("FAILED_PRECONDITION", 412),
    errors.TooManySequences: ("UNAVAILABLE", 503),
    errors.InferenceFailed: ("INTERNAL", 500),
    cache.ModelCacheError: ("INTERNAL", 500),
    cache.ModelNotFound: ("NOT_FOUND", 404),
    cache.StorageUnavailable: ("UNAVAILABLE", 503),
    cache.BlobChanged: ("UNAVAILABLE", 503),
    cache.StorageInterrupted: ("UNAVAILABLE", 503),
    cache.ClientUnsuitable: ("UNAVAILABLE", 503),
    cache.DiskUnusable: ("UNAVAILABLE", 503),
    cache.DiskFull: ("RESOURCE_EXHAUSTED", 507),
    cache.LoadFailed: ("FAILED_PRECONDITION", 503),
    cache.ModelTooLarge: ("RESOURCE_EXHAUSTED", 507),
    cache.CacheFull: ("UNAVAILABLE", 503),
    cache.LoadPending: ("UNAVAILABLE", 503),
}
ROOTS = (errors.InferenceError, cache.ModelCacheError)


def tree(root: type[Exception]) -> Iterator[type[Exception]]:
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


def test_every_error_there_is_has_been_thought_of() -> None:
    assert {cls for root in ROOTS for cls in tree(root)} == set(WANTED)


def test_only_the_roots_do_without_a_code_of_their_own() -> None:
    assert set(WANTED) - set(CODES) == {
        *ROOTS,
        errors.CannotReshape,
        cache.BlobChanged,
        cache.StorageInterrupted,
        cache.ClientUnsuitable,
    }


@pytest.mark.parametrize(("cls", "wanted"), WANTED.items())
def test_an_error_has_its_code_and_its_status(cls: type[Exception], wanted: tuple[str, int]) -> None:
    assert (code_of(cls("why")).name, http_status_of(cls("why"))) == wanted
    assert isinstance(cls("why"), KNOWN)


@pytest.mark.parametrize(
    "bug", [ZeroDivisionError(), KeyError("x"), MemoryError(), TimeoutError(), OSError(28, "full")]
)
def test_a_bug_is_internal_and_none_of_ours(bug: Exception) -> None:
    assert (code_of(bug), http_status_of(bug)) == (Code.INTERNAL, 500)
    assert not isinstance(bug, KNOWN)


def test_a_subclass_has_the_code_of_its_nearest_base() -> None:
    assert http_status_of(type("WrongShape", (errors.InvalidRequest,), {})()) == 400


def test_codes_are_grpcs_and_tensorflows() -> None:
    numbers = oracle.message("StatusProto").DESCRIPTOR.fields_by_name["error_code"].enum_type.values_by_name
    for code in Code:
        assert grpc.StatusCode[code.name].value[0] == code == numbers[code.name].number


# tensorflow_serving/model_servers/http_server.cc, ToHTTPStatusCode.
TENSORFLOW_SERVING = {
    "OK": 200,
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
}


def test_every_code_has_tensorflow_servings_http_status() -> None:
    assert {code.name: status for code, status in HTTP.items()} == TENSORFLOW_SERVING
    assert set(HTTP) == set(Code)
