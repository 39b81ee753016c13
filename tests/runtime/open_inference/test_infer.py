"""Hops 2 to 5 of an inference request of the Open Inference Protocol, whichever transport it came by."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from model_cache.errors import LoadPending, ModelNotFound
from runtime.codecs.open_inference import infer_json, infer_wire, messages
from runtime.codecs.open_inference.inference import InferRequest, InferResponse, Wanted
from runtime.errors import DeadlineExceeded, InferenceFailed, InvalidRequest
from runtime.open_inference import infer, statistics
from runtime.servable import Tensors
from runtime.signature import MAX_RANK, TensorSpec
from tests.runtime import models
from tests.runtime.image_samples import by_opencv, picture
from tests.runtime.open_inference import oracle
from tests.runtime.open_inference.requests import Mirror, given, request
from tests.runtime.servables import F32, NAME, HalfPlusTwo, Stage, stage

STRING: Any = np.dtype(object)
X = TensorSpec("x", F32, (-1, 3), "N...")
B = TensorSpec("b", np.dtype(np.int64), None)
ROW = np.ones((1, 3), np.float32)
SOME = np.array([5, 6, 7])
PIXELS = picture(3, height=4, width=5)
IMAGE = TensorSpec("x", np.dtype(np.uint8), (-1, 4, 5, 3), "NHWC")


@pytest.fixture
def s() -> Iterator[Stage]:
    with stage(1, make=lambda _: Mirror(X, B)) as made:
        yield made


def ask(s: Stage, asked: InferRequest, version: int | None = None, **options: Any) -> InferResponse:
    return infer.run(s.server, NAME, version, asked, **options)


def arrays(response: InferResponse) -> list[tuple[str, list[Any]]]:
    return [(output.name, output.array.tolist()) for output in response.outputs]


def strings(*values: bytes) -> NDArray[Any]:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def test_all_outputs_are_answered_in_the_order_of_the_signature(s: Stage) -> None:
    response = ask(s, request(b=SOME, x=ROW, id="an id"))
    assert arrays(response) == [("x_out", [[1, 1, 1]]), ("b_out", [5, 6, 7])]
    assert (response.model_name, response.model_version, response.id) == (NAME, "1", "an id")


def test_what_is_asked_for_is_answered_in_that_order_and_nothing_else(s: Stage) -> None:
    assert arrays(ask(s, request("b_out", x=ROW, b=SOME))) == [("b_out", [5, 6, 7])]
    response = ask(s, request("b_out", "x_out", x=ROW, b=SOME))
    assert [output.name for output in response.outputs] == ["b_out", "x_out"]


@pytest.mark.parametrize("default", [False, True])
def test_an_output_is_binary_as_it_says_or_else_as_the_request_says(s: Stage, default: bool) -> None:
    wanted = [Wanted("x_out", is_binary=not default), Wanted("b_out")]
    response = ask(s, request(*wanted, x=ROW, b=SOME)._replace(is_binary=default))
    assert [output.is_binary for output in response.outputs] == [not default, default]


def test_the_version_that_is_asked_for_answers() -> None:
    with stage(1, 2) as s:
        x = np.zeros(1, np.float32)
        for version, want in ((1, 1), (2, 2), (None, 2), (0, 2)):
            response = ask(s, request("version", x=x), version)
            assert (response.model_version, arrays(response)) == (str(want), [("version", [want])])
        with pytest.raises(ModelNotFound):
            ask(s, request(x=x), 3)


def test_the_largest_classes_are_strings(s: Stage) -> None:
    x = np.array([[0.5, 2, 1], [3, 0, 4]], np.float32)
    response = ask(s, request(Wanted("x_out", classes=2), "b_out", x=x, b=SOME))
    assert arrays(response) == [("x_out", [[b"2.0:1", b"1.0:2"], [b"4.0:2", b"3.0:0"]]), ("b_out", [5, 6, 7])]


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (request(x=ROW), "Invalid number of inputs - Expected: 2; Actual: 1"),
        (request(x=ROW), r"missing \{b\}, not known \{\}"),
        (request(), r"missing \{b,x\}, not known \{\}"),
        (request(x=ROW, b=SOME, c=SOME), r"missing \{\}, not known \{c\}"),
        (request(x=ROW, b=SOME, sequence_id=SOME), r"missing \{\}, not known \{sequence_id\}"),
        (request(x=ROW, c=SOME), r"the model's \{b,x\}: missing \{b\}, not known \{c\}"),
        (request(x=ROW, c=SOME), "Missing input with specific name - Required input: b"),
        (
            request(x=ROW, b=SOME.astype(np.int32)),
            "input 'b' has datatype INT32; want INT64: Invalid input precision - Expected: INT64; Actual: INT32; "
            "input name: b",
        ),
        (request(x=ROW.astype(np.float64), b=SOME), "Expected: FP32; Actual: FP64; input name: x"),
        # Not for images.
        (request(x=strings(b"1"), b=SOME), "Expected: FP32; Actual: BYTES; input name: x"),
        (
            request(x=np.ones((2, 4), np.float32), b=SOME),
            r"input 'x' has shape \(2, 4\); want \(-1, 3\): Invalid input shape - Expected: \(-1,3\); "
            r"Actual: \(2,4\); input name: x",
        ),
        (request(x=np.ones(3, np.float32), b=SOME), "Invalid number of shape dimensions"),
        (request("y", x=ROW, b=SOME), r"output 'y' is none of the model's; want some of \{b_out,x_out\}"),
        (request("x_out", "x", x=ROW, b=SOME), "output 'x' is none"),
        (request(x=ROW, b=SOME, parameters={"timeout": -1}), "'timeout' is -1; want a number of microseconds"),
        (request(x=ROW, b=SOME, parameters={"timeout": 1.5}), "'timeout' is 1.5"),
        (request(x=ROW, b=SOME, parameters={"timeout": True}), "'timeout' is true"),
        (request(x=ROW, b=SOME, parameters={"timeout": "1"}), "'timeout' is '1'"),
    ],
)
def test_what_does_not_fit_is_the_clients_fault(s: Stage, asked: InferRequest, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        ask(s, asked)


def test_an_error_quotes_no_more_than_a_piece(s: Stage) -> None:
    long = "n" * 100_000
    many = InferRequest([given(f"{long}{i}", SOME) for i in range(50)])
    for asked in (many, request(long, x=ROW, b=SOME), request(x=ROW, b=SOME, parameters={"timeout": long})):
        with pytest.raises(InvalidRequest) as caught:
            ask(s, asked)
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "wrong",
    [
        {"b": SOME.astype(np.int8)},
        {"c": SOME},
        {"x": np.ones((1, 2), np.float32)},
    ],
)
def test_nothing_is_read_before_all_heads_fit(s: Stage, wrong: dict[str, Any]) -> None:
    read: list[str] = []
    inputs = {"x": ROW, "b": SOME, **wrong}
    with pytest.raises(InvalidRequest):
        ask(s, InferRequest([given(name, array, read) for name, array in inputs.items()]))
    with pytest.raises(InvalidRequest):
        ask(s, InferRequest([given("x", ROW, read), given("b", SOME, read)], [Wanted("z")]))
    assert read == []
    ask(s, InferRequest([given("b", SOME, read), given("x", ROW, read)]))
    assert sorted(read) == ["b", "x"]


def test_parameters_that_nobody_knows_are_ignored_and_so_are_sequences(s: Stage) -> None:
    unknown = {"priority": 3, "sequence_id": "abc", "sequence_start": True, "sequence_end": True, "timeout": 0}
    assert arrays(ask(s, request("b_out", x=ROW, b=SOME, parameters=unknown))) == [("b_out", [5, 6, 7])]


@pytest.mark.parametrize("timeout", [10**15 + 1, 2**64 - 1, 10**6 * 60])
def test_a_timeout_may_be_long(s: Stage, timeout: int) -> None:
    assert ask(s, request(x=ROW, b=SOME, parameters={"timeout": timeout})).outputs


class Waiting(HalfPlusTwo):
    """Notes its deadlines."""

    deadlines: ClassVar[list[float | None]] = []

    def predict(self, signature_name: str, inputs: Tensors, deadline: float | None = None) -> Tensors:
        self.deadlines.append(None if deadline is None else deadline - time.monotonic())
        return super().predict(signature_name, inputs, deadline)


@pytest.mark.parametrize(
    ("options", "parameters", "least", "most"),
    [
        ({}, {}, None, None),
        ({"timeout": 5000}, {}, 4000, 5000),
        ({"timeout": 5000, "until": 2000}, {}, 1000, 2000),
        ({"timeout": 1000, "until": 5000}, {}, 900, 1000),
        ({"until": 5000}, {}, 4000, 5000),
        ({"deadline": 3000}, {}, 2000, 3000),
        ({}, {"timeout": 3000 * 10**6}, 2000, 3000),
        ({"timeout": 5000}, {"timeout": 3000 * 10**6}, 2000, 3000),
        ({"deadline": 2000}, {"timeout": 3000 * 10**6}, 1000, 2000),
        ({"timeout": 5000}, {"timeout": 0}, 4000, 5000),
    ],
)
def test_a_model_has_until_the_first_of_all_ends(
    options: dict[str, float], parameters: dict[str, int], least: float | None, most: float | None
) -> None:
    now = time.monotonic()
    moments: dict[str, Any] = {name: now + value if name != "timeout" else value for name, value in options.items()}
    Waiting.deadlines.clear()
    with stage(1, make=Waiting) as s:
        ask(s, request(x=np.zeros(1, np.float32), parameters=parameters), **moments)
    (left,) = Waiting.deadlines
    if least is None or most is None:
        assert left is None
    else:
        assert left is not None
        assert least < left <= most


def test_a_model_is_waited_for_until_the_request_is_of_no_use() -> None:
    x = np.zeros(1, np.float32)
    with stage(1) as s:
        gate = s.loader.hold(1)
        try:
            with pytest.raises(LoadPending):
                ask(s, request(x=x), until=time.monotonic() + 0.01)
            with pytest.raises(DeadlineExceeded):
                ask(s, request(x=x), deadline=time.monotonic() + 0.01)
            with pytest.raises(DeadlineExceeded):
                ask(s, request(x=x, parameters={"timeout": 1000}), timeout=30.0)
        finally:
            gate.open()
        assert ask(s, request(x=x)).model_version == "1"


@pytest.fixture
def pictures() -> Iterator[Stage]:
    with stage(1, make=lambda _: Mirror(IMAGE, B)) as made:
        yield made


def test_files_of_images_become_the_models_numbers(pictures: Stage) -> None:
    both = strings(by_opencv(".png", PIXELS), by_opencv(".png", 255 - PIXELS))
    (out, _) = ask(pictures, request(x=both, b=SOME)).outputs
    np.testing.assert_array_equal(out.array, np.stack([PIXELS, 255 - PIXELS]))
    numbers = ask(pictures, request("x_out", x=PIXELS[None], b=SOME)).outputs[0].array
    np.testing.assert_array_equal(numbers, PIXELS[None])


def by_rest(*strings: bytes) -> InferRequest:
    """One input of strings, which are all that there is of it."""
    head = b'{"inputs":[{"name":"x","shape":[%d],"datatype":"BYTES"}]}' % len(strings)
    return infer_json.parse(head + b"".join(strings), len(head))


def by_grpc(*strings: bytes) -> InferRequest:
    message = oracle.ModelInferRequest(raw_input_contents=[b"".join(strings)])
    message.inputs.add(name="x", datatype="BYTES", shape=[len(strings)])
    return messages.decode(infer_wire.receive(message.SerializeToString()))


def prefixed(string: bytes) -> bytes:
    return struct.pack("<I", len(string)) + string


@pytest.mark.parametrize("sent", [by_rest, by_grpc])
def test_one_image_needs_no_length_where_images_are_wanted(sent: Callable[..., InferRequest]) -> None:
    file = by_opencv(".bmp", PIXELS)
    with stage(1, make=lambda _: Mirror(IMAGE)) as s:
        for asked in (sent(file), sent(prefixed(file))):
            np.testing.assert_array_equal(ask(s, asked).outputs[0].array, PIXELS[None])
        for asked in (sent(prefixed(file)[:-1]), sent(b"BM\0\0" + b"a" * 20), sent(file, file)):
            with pytest.raises(InvalidRequest, match="from its string 0 on"):
                ask(s, asked)
    with stage(1, make=lambda _: Mirror(TensorSpec("x", STRING, (-1,)))) as s:
        assert arrays(ask(s, sent(prefixed(file)))) == [("x_out", [file])]
        with pytest.raises(InvalidRequest, match="from its string 0 on"):
            ask(s, sent(file))


@pytest.mark.parametrize(
    ("files", "text"),
    [
        (strings(b"no image"), "Image parsing failed: image 0 of input 'x'"),
        (strings(b""), "String val is empty"),
        (strings(), "String val is empty"),
        (strings(by_opencv(".png", PIXELS)).reshape(1, 1), "want \\(N,\\)"),
        (strings(b"a").reshape((1,) * MAX_RANK), "want \\(N,\\)"),
    ],
)
def test_what_is_no_image_is_the_clients_fault(pictures: Stage, files: NDArray[Any], text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        ask(pictures, request(x=files, b=SOME))


def test_images_are_not_decoded_before_the_other_inputs_fit_nor_in_haste(pictures: Stage) -> None:
    read: list[str] = []
    file = given("x", strings(b"no image"), read)
    with pytest.raises(InvalidRequest, match="input name: b"):
        ask(pictures, InferRequest([file, given("b", ROW, read)]))
    with pytest.raises(DeadlineExceeded, match="in haste"):
        ask(pictures, InferRequest([file, given("b", SOME, read)]), is_in_haste=True)
    assert read == []


@pytest.mark.parametrize("element_type", models.DTYPES)
def test_a_real_model_of_each_datatype(element_type: str, tmp_path: Path) -> None:
    dtype = models.DTYPES[element_type]
    x: NDArray[Any] = np.array([[0, 1], [1, 0]]).astype(dtype)
    with models.serving(models.doubler(element_type), tmp_path) as servable:
        (output,) = infer_on(servable, request(x=x)).outputs
    assert output.array.dtype == dtype
    want = ~x if element_type == "boolean" else x + x
    np.testing.assert_array_equal(output.array, want)


def infer_on(servable: Any, asked: InferRequest) -> InferResponse:
    """Run a request on what is loaded and stays so."""
    with stage(1, make=lambda _: Lent(servable)) as s:
        return ask(s, asked)


class Lent:
    """A servable that is closed by somebody else."""

    is_closed = False

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def close(self) -> None:
        self.is_closed = True


def test_each_of_many_threads_has_the_answer_to_its_own_rows(tmp_path: Path) -> None:
    with models.serving(models.crossing(), tmp_path) as servable, stage(1, make=lambda _: Lent(servable)) as s:

        def check(number: int) -> None:
            rows = np.random.default_rng(number).integers(-1000, 1000, (1 + number % 5, 3)).astype(np.float32)
            right = np.full((2, 1 + number % 3), number, np.int32)
            response = ask(s, request("doubled", "total", left=rows, right=right, id=str(number)))
            doubled, total = (output.array for output in response.outputs)
            np.testing.assert_array_equal(doubled, right * 2)
            np.testing.assert_array_equal(total, rows.sum(1))
            assert response.id == str(number)

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(check, range(400)))
        (row,) = statistics.rows(s.server, NAME)
        assert (row.success.times, row.fail.times) == (400, 0)
        assert row.inference_count == sum(1 + number % 5 for number in range(400))


def counted(s: Stage) -> tuple[int, int, int]:
    (row,) = statistics.rows(s.server, NAME)
    return row.success.times, row.inference_count, row.fail.times


def test_what_is_answered_is_counted_and_what_is_not_is_too(s: Stage) -> None:
    ask(s, request(x=np.ones((4, 3), np.float32), b=SOME))
    ask(s, request(x=ROW, b=SOME))
    assert counted(s) == (2, 5, 0)
    with pytest.raises(InvalidRequest):
        ask(s, request(x=ROW))
    s.loader.servables[1].bug = InferenceFailed("it could not")
    with pytest.raises(InferenceFailed):
        ask(s, request(x=ROW, b=SOME))
    assert counted(s) == (2, 5, 2)
    # Who was in haste comes again.
    s.loader.servables[1].bug = DeadlineExceeded("it was not quick")
    with pytest.raises(DeadlineExceeded):
        ask(s, request(x=ROW, b=SOME), is_in_haste=True)
    assert counted(s) == (2, 5, 2)
    with pytest.raises(DeadlineExceeded):
        ask(s, request(x=ROW, b=SOME))
    assert counted(s) == (2, 5, 3)
    (row,) = statistics.rows(s.server, NAME)
    parts = (row.queue, row.compute_input, row.compute_infer, row.compute_output)
    assert {part.times for part in parts} == {2}
    # Each rounded down.
    assert row.success.ns - 4 <= sum(part.ns for part in parts) <= row.success.ns
