"""Images in requests of REST and of gRPC, in each of the forms that OpenVINO Model Server documents."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import calls
from runtime.contract import Call, Contract
from runtime.errors import InvalidRequest
from runtime.images import decode_images
from runtime.options import ANY, AUTO, ModelOptions
from runtime.servable import Tensors
from runtime.signature import DEFAULT_SIGNATURE, Dtype, Signature, TensorSpec
from tests.runtime import models, oracle
from tests.runtime.image_samples import by_opencv, picture
from tests.runtime.servables import NAME, HalfPlusTwo, finish_start, stage
from tests.runtime.test_calls import ours

PATH = f"/v1/models/{NAME}:predict".encode()
PIXELS = picture(3, height=4, width=5)
OTHERS = 255 - PIXELS
BOTH = np.stack([PIXELS, OTHERS]).tolist()
STRING: Dtype = np.dtype(object)
NO_LAYOUT = "Received binary image input but resource not configured to accept NHWC layout"


class Pictures(HalfPlusTwo):
    """Answers with what it is given."""

    def __init__(self, spec: TensorSpec, *others: TensorSpec) -> None:
        super().__init__(1)
        specs = {each.name: each for each in (spec, *others)}
        self.signatures = {DEFAULT_SIGNATURE: Signature(specs, {f"{name}_out": specs[name] for name in specs})}

    def predict(self, signature_name: str, inputs: Tensors, deadline: float | None = None) -> Tensors:
        for name, spec in self.signatures[signature_name].inputs.items():
            assert inputs[name].dtype == spec.dtype
            spec.require(inputs[name].shape)
        return {f"{name}_out": array for name, array in inputs.items()}


X = TensorSpec("x", np.dtype(np.uint8), (-1, 4, 5, 3), "NHWC")
TAG = TensorSpec("tag", STRING, (-1,))


def png(pixels: NDArray[Any] = PIXELS) -> bytes:
    return by_opencv(".png", pixels)


def b64(pixels: NDArray[Any] = PIXELS) -> dict[str, str]:
    return {"b64": base64.b64encode(png(pixels)).decode()}


@pytest.fixture
def contract() -> Iterator[Contract]:
    with stage(1, make=lambda _: Pictures(X)) as s:
        finish_start()
        yield Contract(s.server, max_body=1 << 20)


def post(contract: Contract, request: Any) -> tuple[int, Any]:
    answer = contract.answer("POST", PATH, {}, json.dumps(request).encode())
    return answer.status, json.loads(answer.body)


@pytest.mark.parametrize(
    "request_", [{"instances": [{"x": b64()}, {"x": b64(OTHERS)}]}, {"instances": [b64(), b64(OTHERS)]}]
)
def test_a_row_is_an_image(contract: Contract, request_: Any) -> None:
    assert post(contract, request_) == (200, {"predictions": BOTH})


@pytest.mark.parametrize("inputs", [{"x": [b64(), b64(OTHERS)]}, [b64(), b64(OTHERS)]])
def test_a_column_is_images(contract: Contract, inputs: Any) -> None:
    assert post(contract, {"inputs": inputs}) == (200, {"outputs": BOTH})


@pytest.mark.parametrize("inputs", [{"x": b64()}, b64()])
def test_a_column_may_be_an_image_alone(contract: Contract, inputs: Any) -> None:
    assert post(contract, {"inputs": inputs}) == (200, {"outputs": BOTH[:1]})


def test_numbers_are_still_numbers(contract: Contract) -> None:
    assert post(contract, {"instances": BOTH}) == (200, {"predictions": BOTH})


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ({"instances": [b64(), 1]}, "Type: Number is not of expected type: string"),
        ({"instances": [b64(), BOTH[0]]}, "Failed to process element: 1 of 'instances' list"),
        ({"instances": [[b64()]]}, "Invalid input shape: input 'x' has images of shape (1, 1); want (N,)"),
        ({"instances": [{"b64": "!"}]}, "Unable to base64 decode"),
        ({"instances": [{"b64": "bm8="}]}, "Image parsing failed: image 0 of input 'x'"),
        ({"instances": [{"b64": ""}]}, "String val is empty"),
        ({"inputs": []}, "input 'x' has shape (0,)"),
        ({"instances": ["bm8="]}, "Type: String is not of expected type: uint8"),
        ({"instances": [{"b65": "bm8="}]}, "does not have named input: b65"),
    ],
)
def test_what_is_no_image_is_the_clients_fault(contract: Contract, request_: Any, text: str) -> None:
    status, body = post(contract, request_)
    assert (status, text in body["error"]) == (400, True), body


def test_a_later_row_without_an_image_is_named(contract: Contract) -> None:
    status, body = post(contract, {"instances": [{"x": b64()}, {"y": b64()}]})
    assert (status, "Failed to process element: 1" in body["error"]) == (400, True)


def test_images_and_strings_may_be_sent_together() -> None:
    with stage(1, make=lambda _: Pictures(X, TAG)) as s:
        finish_start()
        contract = Contract(s.server, max_body=1 << 20)
        answer = {"x_out": BOTH[0], "tag_out": "a"}
        rows = {"instances": [{"x": b64(), "tag": "a"}]}
        assert post(contract, rows) == (200, {"predictions": [answer]})
        columns = {"inputs": {"x": [b64()], "tag": ["a"]}}
        assert post(contract, columns) == (200, {"outputs": {"x_out": BOTH[:1], "tag_out": ["a"]}})


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (X._replace(layout="NCHW"), NO_LAYOUT),
        (X._replace(shape=(-1, 4)), 'JSON Value: {"b64":"'),
        (X._replace(shape=(-1, 4)), "Type: Object is not of expected type: uint8"),
    ],
)
def test_an_input_that_is_not_for_images_says_so(spec: TensorSpec, text: str) -> None:
    with stage(1, make=lambda _: Pictures(spec)) as s:
        finish_start()
        status, body = post(Contract(s.server, max_body=1 << 20), {"instances": [b64()]})
    assert (status, text in body["error"]) == (400, True), body


def test_images_are_not_decoded_in_haste() -> None:
    body = json.dumps({"instances": [b64()]}).encode()
    with stage(1, make=lambda _: Pictures(X)) as s:
        finish_start()
        contract = Contract(s.server, max_body=1 << 20)
        assert contract.answer("POST", PATH, {}, body).status == 200
        s.loader.servables[1].is_quick = True
        call = contract.begin("POST", PATH, {})
        assert isinstance(call, Call)
        with closing(call):
            assert call.take(len(body)) is None
            assert call.answer_if_quick(body) is None
            assert json.loads(call.answer(body).body) == {"predictions": BOTH[:1]}
        call = contract.begin("POST", PATH, {})
        assert isinstance(call, Call)
        numbers = json.dumps({"instances": BOTH}).encode()
        with closing(call):
            answer = call.answer_if_quick(numbers)
        assert answer is not None
        assert answer.status == 200


def strings(*values: bytes, shape: tuple[int, ...] | None = None) -> Any:
    array = np.empty(len(values), object)
    array[:] = values
    return oracle.typed(array.reshape(shape if shape is not None else (-1,)))


def asked(spec: TensorSpec, **inputs: Any) -> NDArray[Any]:
    request = oracle.PredictRequest()
    for name, proto in inputs.items():
        request.inputs[name].CopyFrom(proto)
    answer = calls.predict(Pictures(spec, *[TAG] * ("tag" in inputs)), ours(request))
    decoded: NDArray[Any] = oracle.array(oracle.TensorProto.FromString(answer.outputs["x_out"].SerializeToString()))
    return decoded


@pytest.mark.parametrize("shape", [(1,), ()])
def test_a_message_has_images_as_strings(shape: tuple[int, ...]) -> None:
    np.testing.assert_array_equal(asked(X, x=strings(png(), shape=shape)), PIXELS[None])


def test_a_message_may_have_other_inputs() -> None:
    both = asked(X, x=strings(png(), png(OTHERS)), tag=strings(b"a", b"b"))
    np.testing.assert_array_equal(both, np.stack([PIXELS, OTHERS]))


@pytest.mark.parametrize(
    ("spec", "proto", "text"),
    [
        (X._replace(layout="NCHW"), strings(png()), NO_LAYOUT),
        (X, strings(b"no"), "Image parsing failed: image 0 of input 'x'"),
        (X, strings(b""), "String val is empty"),
        (X, strings(), "String val is empty"),
        (X, strings(png(), shape=(1, 1)), r"Invalid input shape: input 'x' has images of shape \(1, 1\)"),
        (X._replace(shape=(-1, 4)), strings(png()), "input 'x' has dtype DT_STRING; want DT_UINT8"),
    ],
)
def test_a_message_with_no_image_is_the_clients_fault(spec: TensorSpec, proto: Any, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        asked(spec, x=proto)


def test_a_message_without_the_other_input_is_refused_before_its_images_are_decoded() -> None:
    with pytest.raises(InvalidRequest, match="input 'tag' has dtype DT_FLOAT"):
        asked(X, x=strings(b"no"), tag=oracle.typed(np.ones(1, np.float32)))


def test_a_repeated_image_is_decoded_as_often_as_it_is_asked_for(tmp_path: Path) -> None:
    proto = strings(png())
    proto.tensor_shape.dim[0].size = 3
    np.testing.assert_array_equal(asked(X, x=proto), np.stack([PIXELS] * 3))
    proto.tensor_shape.dim[0].size = 5000
    with pytest.raises(InvalidRequest, match="5000 encoded images"):
        asked(X, x=proto)


def test_a_real_model_computes_with_an_image(tmp_path: Path) -> None:
    with models.serving(models.doubler("f32", (-1, 4, 5, 3)), tmp_path) as servable:
        request = oracle.PredictRequest()
        request.inputs["x"].CopyFrom(strings(png()))
        answer = calls.predict(servable, ours(request))
    doubled = oracle.array(oracle.TensorProto.FromString(answer.outputs["y"].SerializeToString()))
    np.testing.assert_array_equal(doubled, PIXELS[None] * np.float32(2))


@pytest.mark.parametrize("options", [ModelOptions(batch_size=AUTO), ModelOptions(shape=((ANY, AUTO),))])
def test_a_model_of_automatic_sizes_takes_any_number_of_images(options: ModelOptions, tmp_path: Path) -> None:
    models.save(models.doubler(shape=(1, 4, 5, 3)), tmp_path)
    with models.configured(tmp_path, options) as servable:
        specs = servable.signatures[DEFAULT_SIGNATURE].inputs
        for count in (1, 3):
            files = np.array([png()] * count, object)
            outputs = servable.predict(DEFAULT_SIGNATURE, decode_images(specs, {"x": files}))
            np.testing.assert_array_equal(outputs["y"], np.stack([PIXELS] * count).astype(np.float32) * 2)
