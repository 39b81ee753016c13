"""What a request may bring for the server beside the model's inputs, and what is answered so, in JSON and in gRPC."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from runtime import calls
from runtime.contract import Contract
from runtime.errors import InvalidRequest
from runtime.servable import Tensors
from runtime.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from tests.runtime import oracle
from tests.runtime.servables import F32, NAME, HalfPlusTwo, finish_start, stage
from tests.runtime.test_calls import ours

PATH = f"/v1/models/{NAME}:predict".encode()
ID = TensorSpec("sequence_id", np.dtype(np.uint64), (1,))
CONTROL = TensorSpec("sequence_control_input", np.dtype(np.uint32), (1,))
MOST = 2**64 - 1


class Sequenced(HalfPlusTwo):
    """Keeps what it was given; answers with x, and with the sequence it was given or else 7."""

    def __init__(self, rank: int = 2) -> None:
        super().__init__(1)
        x = TensorSpec("x", F32, (-1,) * rank)
        self.signatures = {
            DEFAULT_SIGNATURE: Signature(
                {"x": x},
                {"y": x._replace(name="y")},
                special_inputs={ID.name: ID, CONTROL.name: CONTROL},
                special_outputs={ID.name: ID},
            )
        }
        self.given: dict[str, Any] = {}

    def predict(self, signature_name: str, inputs: Tensors, deadline: float | None = None) -> Tensors:
        self.given = {name: (array.dtype.name, array.shape, array.tolist()) for name, array in inputs.items()}
        return {"y": inputs["x"], ID.name: inputs.get(ID.name, np.array([7], np.uint64))}


@pytest.fixture
def servable() -> Sequenced:
    return Sequenced()


@pytest.fixture
def contract(servable: Sequenced) -> Iterator[Contract]:
    with stage(1, make=lambda _: servable) as s:
        finish_start()
        yield Contract(s.server, max_body=1 << 20)


def post(contract: Contract, request: str) -> tuple[int, Any]:
    answer = contract.answer("POST", PATH, {}, request.encode())
    return answer.status, json.loads(answer.body)


# The second of each is not for the fast reader.
@pytest.mark.parametrize("x", ["[1]", "[NaN]"])
@pytest.mark.parametrize("value", ["10", "[10]", str(MOST)])
def test_a_row_has_special_inputs_with_it(contract: Contract, servable: Sequenced, x: str, value: str) -> None:
    row = f'{{"sequence_id": {value}, "x": {x}, "sequence_control_input": [1]}}'
    status, _ = post(contract, f'{{"instances": [{row}]}}')
    assert status == 200
    number = int(value.strip("[]"))
    assert servable.given["sequence_id"] == ("uint64", (1,), [number])
    assert servable.given["sequence_control_input"] == ("uint32", (1,), [1])
    assert servable.given["x"][:2] == ("float32", (1, 1))


@pytest.mark.parametrize("x", ["[[1]]", "[[NaN]]"])
@pytest.mark.parametrize("value", ["10", "[10]"])
def test_columns_have_special_inputs_beside_them(contract: Contract, servable: Sequenced, x: str, value: str) -> None:
    status, _ = post(contract, f'{{"inputs": {{"x": {x}, "sequence_id": {value}}}}}')
    assert status == 200
    assert servable.given["sequence_id"] == ("uint64", (1,), [10])
    assert "sequence_control_input" not in servable.given


def test_special_outputs_are_answered_in_the_form_of_the_request(contract: Contract) -> None:
    assert post(contract, '{"instances": [{"x": [1], "sequence_id": 3}]}') == (
        200,
        {"predictions": [{"y": [1.0], "sequence_id": 3}]},
    )
    assert post(contract, '{"inputs": {"x": [[1], [2]]}}') == (
        200,
        {"outputs": {"y": [[1.0], [2.0]], "sequence_id": [7]}},
    )


@pytest.mark.parametrize("body", ['{"instances": [[1]]}', '{"inputs": [[1]]}', '{"instances": [{"x": [1]}]}'])
def test_special_inputs_may_be_left_out(contract: Contract, servable: Sequenced, body: str) -> None:
    assert post(contract, body)[0] == 200
    assert servable.given == {"x": ("float32", (1, 1), [[1.0]])}


@pytest.mark.parametrize("value", ["1.5", "-1", str(2**64), '"a"', "true", "null", '{"b64": "AAAA"}'])
def test_special_inputs_are_integers(contract: Contract, servable: Sequenced, value: str) -> None:
    for body in (
        f'{{"instances": [{{"x": [1], "sequence_id": {value}}}]}}',
        f'{{"inputs": {{"x": [[1]], "sequence_id": [{value}]}}}}',
    ):
        status, answer = post(contract, body)
        assert (status, "uint64" in answer["error"]) == (400, True), answer
    assert not servable.given


def test_more_than_one_is_the_servables_to_refuse(contract: Contract, servable: Sequenced) -> None:
    assert post(contract, '{"inputs": {"x": [[1]], "sequence_id": [1, 2]}}')[0] == 200
    assert servable.given["sequence_id"] == ("uint64", (2,), [1, 2])
    rows = '{"instances": [{"x": [1], "sequence_id": [1]}, {"x": [2], "sequence_id": [1]}]}'
    assert post(contract, rows)[0] == 200
    assert servable.given["sequence_id"] == ("uint64", (2,), [1, 1])


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ('{"inputs": {"x": [[1]], "sequence_id": [[1]]}}', (1, 1)),
        ('{"instances": [{"x": [1], "sequence_id": [[1]]}]}', (1, 1, 1)),
        ('{"instances": [{"x": [1], "sequence_id": [1, 2]}]}', (1, 2)),
        ('{"instances": [{"x": [1], "sequence_id": []}]}', (1, 0)),
    ],
)
def test_lists_in_lists_are_the_servables_to_refuse(
    contract: Contract, servable: Sequenced, body: str, shape: tuple[int, ...]
) -> None:
    assert post(contract, body)[0] == 200
    assert servable.given["sequence_id"][1] == shape


def test_all_rows_have_them_or_none(contract: Contract) -> None:
    for rows in ('[{"x": [1], "sequence_id": 1}, {"x": [2]}]', '[{"x": [1]}, {"x": [2], "sequence_id": 1}]'):
        status, answer = post(contract, f'{{"instances": {rows}}}')
        assert (status, "Failed to process element: 1" in answer["error"]) == (400, True)


def test_a_model_without_them_knows_no_such_inputs() -> None:
    with stage(1) as s:
        finish_start()
        contract = Contract(s.server, max_body=1 << 20)
        status, answer = post(contract, '{"instances": [{"x": 1, "sequence_id": 1}]}')
    assert (status, "does not have named input: sequence_id" in answer["error"]) == (400, True)


def test_what_is_special_is_never_in_tensor_content(servable: Sequenced) -> None:
    request = oracle.PredictRequest()
    request.inputs["x"].CopyFrom(oracle.typed(np.ones((2, 1), np.float32)))
    outputs = calls.predict(servable, ours(request), tensor_content_from=1).outputs
    assert outputs["y"].tensor_content
    assert not outputs["sequence_id"].tensor_content


def asked(servable: Sequenced, *wanted: str, **inputs: Any) -> dict[str, Any]:
    request = oracle.PredictRequest()
    for name, array in {"x": np.ones((2, 1), np.float32), **inputs}.items():
        request.inputs[name].CopyFrom(oracle.typed(array))
    request.output_filter.extend(wanted)
    outputs = calls.predict(servable, ours(request)).outputs
    return {
        name: oracle.array(oracle.TensorProto.FromString(outputs[name].SerializeToString())).tolist()
        for name in outputs
    }


def test_a_message_has_special_inputs(servable: Sequenced) -> None:
    answer = asked(servable, sequence_id=np.array([MOST], np.uint64), sequence_control_input=np.array([2], np.uint32))
    assert answer == {"y": [[1.0], [1.0]], "sequence_id": [MOST]}
    assert servable.given["sequence_id"] == ("uint64", (1,), [MOST])
    assert servable.given["sequence_control_input"] == ("uint32", (1,), [2])


def test_a_messages_special_shapes_are_the_servables_to_refuse(servable: Sequenced) -> None:
    asked(servable, sequence_id=np.array(5, np.uint64))
    assert servable.given["sequence_id"] == ("uint64", (), 5)
    asked(servable, sequence_id=np.array([[5, 6]], np.uint64))
    assert servable.given["sequence_id"] == ("uint64", (1, 2), [[5, 6]])


@pytest.mark.parametrize("wanted", [(), ("y",), ("sequence_id", "y"), ("sequence_id",)])
def test_what_is_special_is_answered_whatever_else_is_wanted(servable: Sequenced, wanted: tuple[str, ...]) -> None:
    assert set(asked(servable, *wanted)) == {"sequence_id", *(wanted or ("y",))}


def test_what_is_special_is_of_its_own_type(servable: Sequenced) -> None:
    with pytest.raises(InvalidRequest, match="Could not find sequence id in expected tensor proto field uint64_val"):
        asked(servable, sequence_id=np.array([1], np.int64))
    with pytest.raises(
        InvalidRequest, match="Could not find sequence control input in expected tensor proto field uint32_val"
    ):
        asked(servable, sequence_control_input=np.array([1], np.uint64))


def test_other_names_are_still_unknown(servable: Sequenced) -> None:
    with pytest.raises(InvalidRequest, match="input size does not match signature: 2!=1"):
        asked(servable, sequence_id=np.array([1], np.uint64), sequence=np.array([1], np.uint64))
