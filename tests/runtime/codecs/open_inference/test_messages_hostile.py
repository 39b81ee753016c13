"""ModelInferRequests from whoever likes to send some: read as protobuf reads them, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.codecs.open_inference import infer_wire, messages
from runtime.errors import InvalidRequest
from tests.runtime.codecs.open_inference import test_infer_wire as wires
from tests.runtime.codecs.test_tensor_proto_hostile import edited, edits
from tests.runtime.open_inference import oracle

CORPUS = Path(__file__).parents[1] / "corpus" / "infer_request"
"""Files of one message each, named by what is to become of it: ``read-...`` or ``refused-...``."""


def read(wire: bytes, large: int) -> list[object]:
    """Read all of a request, and write what has been read."""
    request = messages.decode(infer_wire.receive(wire, large))
    found: list[object] = [request.id, request.parameters, request.outputs]
    for one in request.inputs:
        array = one.read(None)
        assert (array.dtype, array.shape) == (one.dtype, one.shape)
        found += [one.name, one.parameters, oracle.raw(array)]
    return found


def outcome(wire: bytes, large: int) -> object:
    try:
        return read(wire, large)
    except InvalidRequest as exc:
        message = str(exc)
        assert len(message.encode()) < 2000
        # Protobuf and we have different words for it.
        return message.partition("no ModelInferRequest")[0]


def check(wire: bytes) -> None:
    """It is read or refused, whoever finds its raw contents."""
    wires.check(wire)
    assert repr(outcome(wire, 0)) == repr(outcome(wire, len(wire) + 1))


def corpus() -> list[Path]:
    return sorted(CORPUS.iterdir())


@pytest.mark.parametrize("path", corpus(), ids=lambda path: path.stem)
def test_every_message_of_the_corpus_is_read_or_refused(path: Path) -> None:
    wire = path.read_bytes()
    check(wire)
    if path.name.startswith("read-"):
        assert read(wire, 0)
    else:
        with pytest.raises(InvalidRequest):
            read(wire, 0)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.sampled_from(corpus()), edits)
def test_broken_messages_of_the_corpus_are_read_or_refused(path: Path, edits: list[tuple[int, bytes, int]]) -> None:
    check(edited(path.read_bytes(), edits))


def test_there_are_no_more_parameters_than_there_may_be() -> None:
    request = oracle.request("m")
    for i in range(messages.MAX_PARAMETERS + 1):
        request.parameters[str(i)].bool_param = True
    with pytest.raises(InvalidRequest, match=r"^the request has 1001 parameters; want 1000 at most$"):
        read(request.SerializeToString(), 0)
    del request.parameters["0"]
    assert read(request.SerializeToString(), 0)
