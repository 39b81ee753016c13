"""silero-vad, which listens: as it is shipped its state goes in and out, and made stateful the server keeps it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.golden import direct, real
from tests.golden.asking import over_grpc, over_rest
from tests.golden.direct import Arrays
from tests.golden.serving import serving
from tests.servers.decant import Decant

Sound = NDArray[np.float32]

START, END = np.array([1], np.uint32), np.array([2], np.uint32)
CHUNK = 576
RATE = 16_000


def chunks(pitch: float, count: int = 6) -> list[Sound]:
    """Return a voice-like sound in pieces of what the model takes: 36 ms."""
    time = np.arange(CHUNK * count) / RATE
    harmonics = sum(np.sin(2 * np.pi * pitch * n * time) / n for n in range(1, 8))
    sound = (0.3 * harmonics * (1 + 0.5 * np.sin(2 * np.pi * 4 * time))).astype(np.float32)
    return list(sound.reshape(count, 1, CHUNK))


def heard(sound: list[Sound]) -> list[float]:
    """Return what the model says of each piece if its state is handed on by hand."""
    state = np.zeros((2, 1, 128), np.float32)
    said = []
    for piece in sound:
        outputs = direct.infer(real.source("voice"), {"input": piece, "state": state})
        said.append(float(outputs["output"][0, 0]))
        state = outputs["stateN"]
    return said


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decant]:
    directory = tmp_path_factory.mktemp("sequences")
    voice = str(direct.save_stateful(real.source("voice"), directory / "voice", {"state": "stateN"}))
    models: dict[str, dict[str, Any]] = {
        "voice": {"base_path": voice, "stateful": True},
        "crowded": {"base_path": voice, "stateful": True, "max_sequence_number": 3},
        "forgetful": {"base_path": voice},
    }
    with serving(directory, models) as running:
        yield running


def said_in(outputs: Arrays) -> float:
    """Return the model's one answer, whichever of its names it comes by."""
    ((answer,),) = (array.ravel().tolist() for name, array in outputs.items() if name != "sequence_id")
    return float(answer)


def sequence(number: int) -> NDArray[np.uint64]:
    return np.array([number], np.uint64)


def test_a_sequence_over_rest_is_heard_as_a_whole(server: Decant) -> None:
    sound = chunks(120)
    controls = [START, *[np.array([0], np.uint32)] * (len(sound) - 2), END]
    said = []
    for piece, control in zip(sound, controls, strict=True):
        inputs: Arrays = {"input": piece, "sequence_id": sequence(7), "sequence_control_input": control}
        outputs = over_rest(server, "voice", inputs)
        assert outputs["sequence_id"].tolist() == [7]
        said.append(said_in(outputs))
    np.testing.assert_allclose(said, heard(sound), atol=1e-4)


def test_sequences_over_grpc_do_not_hear_each_other(server: Decant) -> None:
    low, high = chunks(90), chunks(210)
    assert not np.allclose(heard(low), heard(high), atol=1e-3)
    said: dict[int, list[float]] = {}
    numbers = []
    for sound in (low, high):
        # The server chooses the numbers.
        outputs = over_grpc(server, "voice", {"input": sound[0], "sequence_control_input": START})
        (number,) = outputs["sequence_id"].tolist()
        numbers.append(number)
        said[number] = [said_in(outputs)]
    assert len(set(numbers)) == 2
    for position in range(1, len(low)):
        for number, sound in zip(numbers, (low, high), strict=True):
            inputs: Arrays = {"input": sound[position], "sequence_id": sequence(number)}
            if position == len(low) - 1:
                inputs["sequence_control_input"] = END
            outputs = over_grpc(server, "voice", inputs)
            said[number].append(said_in(outputs))
    for number, sound in zip(numbers, (low, high), strict=True):
        np.testing.assert_allclose(said[number], heard(sound), atol=1e-4)


def test_a_model_that_was_not_said_to_be_stateful_begins_anew_each_time(server: Decant) -> None:
    sound = chunks(120)
    alone = [heard([piece])[0] for piece in sound]
    assert not np.allclose(alone, heard(sound), atol=1e-3)
    said = [said_in(over_grpc(server, "forgetful", {"input": piece})) for piece in sound]
    np.testing.assert_allclose(said, alone, atol=1e-4)


def test_sequences_that_cannot_be_are_refused_in_ovms_words(server: Decant) -> None:
    piece = chunks(120)[0]
    cases: list[tuple[Arrays, int, str]] = [
        ({"sequence_id": sequence(404)}, 404, "Sequence with provided ID does not exist"),
        ({}, 400, "Sequence ID has not been provided in request inputs"),
        ({"sequence_control_input": END}, 400, "Sequence ID has not been provided in request inputs"),
        ({"sequence_control_input": np.array([3], np.uint32)}, 400, "Unexpected value of sequence control input"),
    ]
    for special, status, text in cases:
        inputs = {"input": piece, **special}
        reply = server.post("/v1/models/voice:predict", {"inputs": {name: x.tolist() for name, x in inputs.items()}})
        assert (reply.status, text in reply.body["error"]) == (status, True), reply.body


def test_there_are_no_more_sequences_than_the_model_may_have(server: Decant) -> None:
    piece = chunks(120)[0]

    def control(number: int, word: NDArray[np.uint32]) -> None:
        inputs: Arrays = {"input": piece, "sequence_id": sequence(number), "sequence_control_input": word}
        over_grpc(server, "crowded", inputs)

    control(1, START)
    with pytest.raises(grpc.RpcError) as refusal:
        control(1, START)
    assert refusal.value.code() is grpc.StatusCode.ALREADY_EXISTS
    control(2, START)
    control(3, START)
    with pytest.raises(grpc.RpcError) as refusal:
        control(4, START)
    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "Max sequence number has been reached" in str(refusal.value.details())
    control(2, END)
    control(4, START)
