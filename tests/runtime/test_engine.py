"""OpenVINO models as servables: real models, compiled for this CPU, run."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import magika
import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import pytest
from numpy.typing import NDArray

from model_cache.disk import DiskCache
from model_cache.errors import LoadFailed
from runtime.engine import OpenVinoLoader
from runtime.errors import DeadlineExceeded, InferenceFailed, InvalidRequest, Overloaded, SignatureNotFound
from runtime.openvino_core import openvino
from runtime.openvino_servable import OpenVinoServable
from runtime.signature import DEFAULT_SIGNATURE, TensorSpec
from tests.alone import alone
from tests.conftest import DIGITS
from tests.fakes import until
from tests.runtime import measured, models

MAGIKA = Path(magika.__file__).parent / "models" / "standard_v3_3"
THREADS = 8
MIB = 1 << 20


def predict(servable: OpenVinoServable, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return dict(servable.predict(DEFAULT_SIGNATURE, inputs))


@pytest.fixture(scope="module")
def doubler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenVinoServable]:
    """``y = x + x`` with x f32 [-1, 2]."""
    with models.serving(models.doubler(), tmp_path_factory.mktemp("doubler")) as servable:
        yield servable


@pytest.fixture(scope="module")
def crossing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenVinoServable]:
    with models.serving(models.crossing(), tmp_path_factory.mktemp("crossing")) as servable:
        yield servable


def a_few(dtype: Any) -> NDArray[Any]:
    if dtype == np.bool_:
        return np.array([[True, False], [False, False]])
    return np.array([[0, 1], [3, 60]]).astype(dtype)


@pytest.mark.parametrize("element_type", models.DTYPES)
def test_every_element_type_goes_in_and_comes_out(element_type: str, tmp_path: Path) -> None:
    dtype = models.DTYPES[element_type]
    x = a_few(dtype)
    with models.serving(models.doubler(element_type), tmp_path) as servable:
        (spec,) = servable.signatures[DEFAULT_SIGNATURE].inputs.values()
        y = predict(servable, x=x)["y"]
    assert spec == TensorSpec("x", dtype, (-1, 2))
    assert y.dtype == dtype
    want = ~x if element_type == "boolean" else (x.astype(np.float64) * 2).astype(dtype)
    assert y.tolist() == want.tolist()


@pytest.mark.parametrize("element_type", models.DTYPES)
def test_every_element_type_goes_through_a_scalar(element_type: str, tmp_path: Path) -> None:
    dtype = models.DTYPES[element_type]
    with models.serving(models.doubler(element_type, ()), tmp_path) as servable:
        y = predict(servable, x=np.array(1, dtype))["y"]
    assert (y.dtype, y.shape) == (dtype, ())
    assert float(y) == (0 if element_type == "boolean" else 2)


def test_the_signature_has_names_order_types_and_shapes(crossing: OpenVinoServable) -> None:
    assert list(crossing.signatures) == ["serving_default"]
    signature = crossing.signatures[DEFAULT_SIGNATURE]
    assert signature.method_name == "tensorflow/serving/predict"
    assert list(signature.inputs.items()) == [
        ("left", TensorSpec("left", np.dtype(np.float32), (-1, 3))),
        ("right", TensorSpec("right", np.dtype(np.int32), (2, -1))),
    ]
    assert list(signature.outputs.items()) == [
        ("total", TensorSpec("total", np.dtype(np.float32), (-1,))),
        ("doubled", TensorSpec("doubled", np.dtype(np.int32), (2, -1))),
    ]


def test_inputs_go_by_name_not_by_their_order(crossing: OpenVinoServable) -> None:
    right = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.int32)
    outputs = predict(crossing, right=right, left=np.array([[1, 2, 3]], np.float32))
    assert list(outputs) == ["total", "doubled"]
    assert outputs["total"].tolist() == [6]
    assert outputs["doubled"].tolist() == (right * 2).tolist()


def test_tensors_without_names_are_called_as_their_nodes_at_every_load(tmp_path: Path) -> None:
    models.save(models.nameless(), tmp_path)
    for _ in range(2):
        with models.loaded(tmp_path) as servable:
            signature = servable.signatures[DEFAULT_SIGNATURE]
            assert (list(signature.inputs), list(signature.outputs)) == (["data"], ["answer"])
            assert predict(servable, data=np.ones((1, 2), np.float32))["answer"].tolist() == [[2, 2]]


def test_a_dynamic_dimension_takes_any_size_in_any_order(doubler: OpenVinoServable) -> None:
    for size in (3, 1, 100, 0, 2):
        x = np.arange(size * 2, dtype=np.float32).reshape(size, 2)
        y = predict(doubler, x=x)["y"]
        assert y.shape == x.shape
        assert y.tolist() == (x * 2).tolist()


def test_a_scalar_comes_out_as_one(tmp_path: Path) -> None:
    with models.serving(models.summer(), tmp_path) as servable:
        total = predict(servable, x=np.array([1, 2, 4], np.float32))["total"]
    assert total.shape == ()
    assert total == 7


def test_what_is_not_finite_comes_out_so(tmp_path: Path) -> None:
    with models.serving(models.divider(), tmp_path) as servable:
        y = predict(servable, x=np.array([0, 1, -1], np.float32))["y"]
    np.testing.assert_array_equal(y, [np.nan, np.inf, -np.inf])


@pytest.mark.parametrize(
    ("inputs", "given", "wanted"),
    [
        ({}, "0", "Missing but required: {x}"),
        ({"X": np.zeros((1, 2), np.float32)}, "sent extra: {X}", "missing but required: {x}"),
        ({"x": np.zeros((1, 2), np.float32), "z": np.zeros(1)}, "Sent extra: {z}", "{x}"),
        ({"x": np.zeros((1, 2))}, "input 'x' has dtype DT_DOUBLE", "want DT_FLOAT"),
        ({"x": np.zeros((1, 2), np.int64)}, "input 'x' has dtype DT_INT64", "want DT_FLOAT"),
        ({"x": np.zeros((1, 2), models.DTYPES["bf16"])}, "input 'x' has dtype DT_BFLOAT16", "want DT_FLOAT"),
        ({"x": np.zeros((1, 2), np.complex64)}, "complex64", "want DT_FLOAT"),
        ({"x": np.zeros((1, 3), np.float32)}, "input 'x' has shape (1, 3)", "want (-1, 2)"),
        ({"x": np.zeros((2,), np.float32)}, "input 'x' has shape (2,)", "want (-1, 2)"),
        ({"x": np.zeros((1, 2, 1), np.float32)}, "input 'x' has shape (1, 2, 1)", "want (-1, 2)"),
        ({"x": np.zeros((), np.float32)}, "input 'x' has shape ()", "want (-1, 2)"),
    ],
)
def test_an_input_that_does_not_fit_is_refused_with_what_was_given_and_wanted(
    doubler: OpenVinoServable, inputs: dict[str, NDArray[Any]], given: str, wanted: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        doubler.predict(DEFAULT_SIGNATURE, inputs)
    assert given in str(caught.value)
    assert wanted in str(caught.value)


def test_an_unknown_signature_is_refused(doubler: OpenVinoServable) -> None:
    with pytest.raises(SignatureNotFound, match='"other"'):
        doubler.predict("other", {"x": np.zeros((1, 2), np.float32)})


def test_sizes_that_do_not_go_together_are_the_callers_fault_and_do_no_harm(tmp_path: Path) -> None:
    with models.serving(models.adder(), tmp_path) as servable:
        with pytest.raises(InvalidRequest, match="shapes"):
            predict(servable, a=np.ones(2, np.float32), b=np.ones(3, np.float32))
        assert predict(servable, a=np.ones(2, np.float32), b=np.ones(2, np.float32))["y"].tolist() == [2, 2]


MISMATCH = """
import sys
from pathlib import Path
import numpy as np
from runtime.errors import InvalidRequest
from tests.runtime import models
with models.serving(models.adder(), Path(sys.argv[1]), INFERENCE_NUM_THREADS="1") as servable:
    for a, b in ((2, 2), (2, 3), (1, 3)):
        inputs = {"a": np.ones(a, np.float32), "b": np.ones(b, np.float32)}
        try:
            print(servable.predict("serving_default", inputs)["y"].tolist())
        except InvalidRequest:
            print("refused")
"""


def run_python(script: str, *arguments: object) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]).stdout


# As on a machine with one core. OpenVINO's infer() says nothing of an error there and leaves the last answer where it
# is; a later run may then end the process, which is why this has one of its own.
def test_with_one_thread_a_request_that_fails_does_not_get_the_last_ones_answer(tmp_path: Path) -> None:
    assert run_python(MISMATCH, tmp_path).splitlines() == ["[2.0, 2.0]", "refused", "[2.0, 2.0, 2.0]"]


def test_values_that_the_graph_refuses_are_bad_input(tmp_path: Path) -> None:
    x = np.arange(4, dtype=np.float32)
    with models.serving(models.reshaper(), tmp_path) as servable:
        with pytest.raises(InvalidRequest, match=r"model/1 cannot run these inputs: (?!Caught)"):
            predict(servable, x=x, shape=np.array([3, 3]))
        assert predict(servable, x=x, shape=np.array([2, 2]))["y"].tolist() == [[0, 1], [2, 3]]


def rows(count: int, value: float = 1) -> NDArray[Any]:
    return np.full((count, 2), value, np.float32)


def test_what_follows_a_request_that_fails_has_nothing_of_it(tmp_path: Path) -> None:
    """OpenVINO alone answers what has one row with three, two of which are those of the request that has failed."""
    with models.serving(models.chain(), tmp_path) as servable:
        for value in (1, 2, 3):
            assert predict(servable, a=rows(1, value), b=rows(1))["z"].tolist() == [[2 * value + 1] * 2]
            assert servable.usage.active == 0
            with pytest.raises(InvalidRequest, match="cannot run these inputs"):
                predict(servable, a=rows(3, 700), b=rows(2))
            assert not servable.is_quick
            assert servable.usage.streams == 1
            answer = predict(servable, a=rows(1, value), b=rows(1))
            assert answer["y"].tolist() == [[2 * value] * 2]
            assert answer["z"].tolist() == [[2 * value + 1] * 2]


def test_only_the_first_request_that_does_not_fit_has_the_model_compiled_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with models.serving(models.chain(), tmp_path) as servable:
        predict(servable, a=rows(1), b=rows(1))
        for misfit in [*range(4, 100), 4, 5]:
            with pytest.raises(InvalidRequest, match=r"model/1 cannot run these inputs: (?!.*/tmp)"):
                predict(servable, a=rows(3), b=rows(misfit))
            assert predict(servable, a=rows(1), b=rows(1))["z"].tolist() == [[3, 3]]
        assert predict(servable, a=rows(3), b=rows(3))["z"].tolist() == [[3, 3]] * 3
    assert sum("compiled model/1 anew" in message for message in caplog.messages) == 1


def test_what_runs_beside_requests_that_fail_has_nothing_of_them(tmp_path: Path) -> None:
    models.save(models.chain(), tmp_path)
    loader = OpenVinoLoader(models.files_at(tmp_path), models.F32, 4)
    servable = models.load_by(loader, models.version_at(tmp_path))

    def ask(number: int) -> None:
        if number % 4 == 3:
            with pytest.raises(InvalidRequest):
                predict(servable, a=rows(3, 700), b=rows(2))
            return
        # It may be told to try again, which is no wrong answer.
        with contextlib.suppress(Overloaded):
            assert predict(servable, a=rows(1, number), b=rows(1))["z"].tolist() == [[2 * number + 1] * 2]

    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(ask, range(200)))
    finally:
        servable.close()


def test_a_model_that_cannot_be_compiled_anew_says_so(tmp_path: Path) -> None:
    with models.serving(models.chain(), tmp_path) as servable:
        with pytest.raises(InvalidRequest):
            predict(servable, a=rows(3), b=rows(2))
        shutil.move(tmp_path / "1", tmp_path / "away")
        models.save(models.adder(), tmp_path)
        for _ in range(2 * servable.concurrency):
            with pytest.raises(InferenceFailed, match=r"compiled anew, and cannot: .*not what they were"):
                predict(servable, a=rows(1), b=rows(1))
        shutil.rmtree(tmp_path / "1")
        shutil.move(tmp_path / "away", tmp_path / "1")
        assert predict(servable, a=rows(1), b=rows(1))["z"].tolist() == [[3, 3]]


def test_a_size_out_of_a_dimensions_bounds_is_the_callers_fault(tmp_path: Path) -> None:
    shape = openvino().PartialShape([openvino().Dimension(1, 4), 2])
    with models.serving(models.doubler(shape=shape), tmp_path) as servable:
        with pytest.raises(InvalidRequest):
            predict(servable, x=np.ones((5, 2), np.float32))
        assert predict(servable, x=np.ones((4, 2), np.float32))["y"].shape == (4, 2)


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    return np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)


def transposed(array: NDArray[Any]) -> NDArray[Any]:
    return np.asfortranarray(array)


def strided(array: NDArray[Any]) -> NDArray[Any]:
    return np.repeat(array, 2, axis=1)[:, ::2]


def unaligned(array: NDArray[Any]) -> NDArray[Any]:
    return np.frombuffer(bytearray(b"-" + array.tobytes()), array.dtype, offset=1).reshape(array.shape)


# What protobuf and simdjson hand out; large, so that memory that is given back too early is seen to be.
@pytest.mark.parametrize("layout", [read_only, transposed, strided, unaligned])
@pytest.mark.parametrize("element_type", ["f32", "f16", "bf16", "i32"])
def test_an_input_is_read_right_however_it_lies_in_memory(element_type: str, layout: Any, tmp_path: Path) -> None:
    dtype = models.DTYPES[element_type]
    with models.serving(models.doubler(element_type, (-1, 1000)), tmp_path) as servable:
        for i in range(10):
            x = (np.arange(40_000).reshape(40, 1000) % 7 + i).astype(dtype)
            y = predict(servable, x=layout(x))["y"]
            np.testing.assert_array_equal(y.astype(np.float64), x.astype(np.float64) * 2)


@pytest.mark.parametrize("layout", [read_only, strided])
def test_each_of_several_inputs_is_read_right_however_it_lies_in_memory(layout: Any, tmp_path: Path) -> None:
    with models.serving(models.crossing(), tmp_path) as servable:
        for i in range(10):
            left = (np.arange(60_000).reshape(20_000, 3) % 7 + i).astype(np.float32)
            right = (np.arange(60_000).reshape(2, 30_000) % 11 + i).astype(np.int32)
            outputs = predict(servable, left=layout(left), right=layout(right))
            np.testing.assert_array_equal(outputs["total"], left.sum(axis=1))
            np.testing.assert_array_equal(outputs["doubled"], right * 2)


def test_an_input_is_not_changed_by_being_predicted(doubler: OpenVinoServable) -> None:
    x = np.arange(4, dtype=np.float32).reshape(2, 2)
    predict(doubler, x=x)
    assert x.tolist() == [[0, 1], [2, 3]]


def test_an_answer_outlives_later_predictions_and_the_servable(tmp_path: Path) -> None:
    with models.serving(models.doubler(), tmp_path) as servable:
        answers = [predict(servable, x=np.full((1000, 2), i, np.float32))["y"] for i in range(5)]
    del servable
    gc.collect()
    junk = [np.full((1000, 2), -1, np.float32) for _ in range(50)]
    assert [set(answer.ravel()) for answer in answers] == [{2.0 * i} for i in range(5)]
    assert len(junk) == 50
    answers[0][:] = 7
    assert answers[0].sum() == 14_000


@pytest.mark.parametrize("hint", ["LATENCY", "THROUGHPUT"])
def test_answers_of_concurrent_predictions_are_not_swapped(hint: str, tmp_path: Path) -> None:
    def ask(worker: int) -> list[int]:
        wrong = []
        for i in range(50):
            x = np.full((worker + 1, 2), 1000 * worker + i, np.float32)
            y = predict(servable, x=x)["y"]
            if not np.array_equal(y, x * 2):
                wrong.append(i)
        return wrong

    with (
        models.serving(models.doubler(), tmp_path, PERFORMANCE_HINT=hint) as servable,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        assert list(pool.map(ask, range(THREADS))) == [[]] * THREADS


def test_models_with_the_same_names_inside_are_kept_apart(tmp_path: Path) -> None:
    models.save(models.doubler(), tmp_path / "a")
    models.save(models.divider(), tmp_path / "b")
    with models.loaded(tmp_path / "a") as first, models.loaded(tmp_path / "b") as second:
        assert predict(first, x=np.array([[1, 2]], np.float32))["y"].tolist() == [[2, 4]]
        assert predict(second, x=np.array([1], np.float32))["y"].tolist() == [np.inf]


def truncated_bin(xml: Path, binary: Path) -> None:
    binary.write_bytes(binary.read_bytes()[:1000])


def empty_bin(xml: Path, binary: Path) -> None:
    binary.write_bytes(b"")


def no_bin(xml: Path, binary: Path) -> None:
    binary.unlink()


def garbage_xml(xml: Path, binary: Path) -> None:
    xml.write_bytes(b"\0garbage")


def truncated_xml(xml: Path, binary: Path) -> None:
    xml.write_bytes(xml.read_bytes()[:700])


def empty_xml(xml: Path, binary: Path) -> None:
    xml.write_bytes(b"")


def no_xml(xml: Path, binary: Path) -> None:
    xml.unlink()


def unknown_operation(xml: Path, binary: Path) -> None:
    xml.write_bytes(xml.read_bytes().replace(b'type="MatMul"', b'type="Divine"'))


def garbage_onnx(xml: Path, binary: Path) -> None:
    xml.unlink()
    xml.with_suffix(".onnx").write_bytes(b"garbage")


def removed_after_it_was_listed(xml: Path, binary: Path) -> None:
    shutil.rmtree(xml.parent)


Damage = Callable[[Path, Path], None]
DAMAGES: dict[Damage, str] = {
    truncated_bin: "Incorrect weights in bin file",
    empty_bin: "Incorrect weights in bin file",
    no_bin: "bin file cannot be found",
    garbage_xml: "model.xml",
    truncated_xml: "Error parsing",
    empty_xml: "model.xml",
    no_xml: "want one .xml with its .bin, .onnx, .pdmodel or .json with its .pdiparams, saved_model.pb, frozen .pb or "
    ".tflite; found model.bin",
    unknown_operation: "Divine",
    garbage_onnx: "model.onnx",
    removed_after_it_was_listed: "gone",
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.items())
def test_broken_files_fail_to_load_with_the_reason_and_no_local_path(
    damage: Damage, reason: str, tmp_path: Path
) -> None:
    directory = models.save(models.weighty(), tmp_path)
    version = models.version_at(tmp_path)
    damage(directory / "model.xml", directory / "model.bin")
    with pytest.raises(LoadFailed) as caught:
        models.loader(models.files_at(tmp_path)).load(version)
    message = str(caught.value)
    assert "model/1" in message
    assert reason in message
    assert str(tmp_path) not in message
    assert ".cpp" not in message


def test_a_reason_is_cut_without_a_piece_of_the_path_in_it(tmp_path: Path) -> None:
    base = tmp_path / ("d" * 250) / ("e" * 250)
    directory = models.save(models.weighty(), base)
    (directory / "model.xml").write_bytes(b"garbage")
    with pytest.raises(LoadFailed) as caught:
        models.load(base)
    assert "ddd" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("element_type", ["u4", "i4", "nf4", "f8e4m3"])
def test_an_element_type_that_cannot_be_sent_fails_to_load(element_type: str, tmp_path: Path) -> None:
    models.save(models.shape_of(element_type), tmp_path)
    with pytest.raises(LoadFailed, match=f"input 'x' is of type {element_type}; want one of f32,.* bf16"):
        models.load(tmp_path)


def test_two_outputs_of_one_name_fail_to_load(tmp_path: Path) -> None:
    models.save(models.twins(), tmp_path)
    with pytest.raises(LoadFailed, match="two outputs are named 'y'"):
        models.load(tmp_path)


def test_an_open_rank_fails_to_load_as_the_plugin_has_none(tmp_path: Path) -> None:
    models.save(models.doubler(shape=openvino().PartialShape.dynamic()), tmp_path)
    with pytest.raises(LoadFailed, match="rank"):
        models.load(tmp_path)


def is_in_use(files: DiskCache) -> bool:
    return not all(files.remove(entry) for entry in files.entries())


@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if damage is not removed_after_it_was_listed])
def test_a_failed_load_gives_its_files_back(damage: Damage, tmp_path: Path) -> None:
    directory = models.save(models.weighty(), tmp_path)
    damage(directory / "model.xml", directory / "model.bin")
    files = models.files_at(tmp_path)
    with pytest.raises(LoadFailed):
        models.loader(files).load(models.version_in_bucket(tmp_path))
    assert not is_in_use(files)


def test_a_type_that_cannot_be_sent_gives_its_files_back(tmp_path: Path) -> None:
    models.save(models.shape_of("u4"), tmp_path)
    files = models.files_at(tmp_path)
    with pytest.raises(LoadFailed):
        models.loader(files).load(models.version_in_bucket(tmp_path))
    assert len(files.entries()) == 1
    assert not is_in_use(files)


def test_a_servable_holds_its_files_until_it_is_closed(tmp_path: Path) -> None:
    models.save(models.weighty(), tmp_path)
    files = models.files_at(tmp_path)
    servable = models.loader(files).load(models.version_in_bucket(tmp_path))
    assert is_in_use(files)
    servable.close()
    assert not is_in_use(files)


def test_a_servable_says_what_its_load_has_spent_its_time_on(tmp_path: Path) -> None:
    models.save(models.weighty(), tmp_path)
    version = models.version_in_bucket(tmp_path)
    loader = models.loader(models.files_at(tmp_path))
    phases = []
    for _ in range(2):
        servable = models.load_by(loader, version)
        phases.append(servable.phases)
        servable.close()
    first, second = phases
    assert first.fetched is not None
    assert first.fetched.size == version.size
    assert 0 < first.fetched.seconds < first.total
    assert 0 < first.compile < first.total - first.fetched.seconds
    # It is on disk now.
    assert second.fetched is None
    assert 0 < second.compile < second.total


def test_the_first_estimate_is_no_less_than_what_the_servable_says(tmp_path: Path) -> None:
    directory = models.save(models.weighty(), tmp_path)
    version = models.version_at(tmp_path)
    loader = models.loader(models.files_at(tmp_path))
    estimate = loader.estimate(version)
    servable = models.load_by(loader, version)
    servable.close()
    assert estimate >= servable.size >= (directory / "model.bin").stat().st_size


def test_a_servables_size_is_its_files_and_what_the_process_has_grown_by(tmp_path: Path) -> None:
    models.save(models.weighty(2048), tmp_path)
    load = alone(measured.a_load, tmp_path)
    # The weights, laid out anew.
    assert load.grown == pytest.approx(16 * MIB, abs=4 * MIB)
    assert load.size == pytest.approx(load.files + load.grown, abs=4 * MIB)
    assert load.left == pytest.approx(0, abs=6 * MIB)
    assert any("model/1 has given back 1" in line for line in load.log)


def test_the_estimate_of_what_has_been_measured_is_that(tmp_path: Path) -> None:
    models.save(models.weighty(), tmp_path)
    version = models.version_at(tmp_path)
    loader = models.loader(models.files_at(tmp_path))
    bound = loader.estimate(version)
    servable = models.load_by(loader, version)
    servable.close()
    assert loader.estimate(version) == servable.size < bound
    with loader._meter.change():
        again = loader.load(version)
    again.close()
    assert again.size == servable.size


def test_a_load_beside_another_is_as_large_as_was_estimated(tmp_path: Path) -> None:
    models.save(models.weighty(), tmp_path)
    version = models.version_at(tmp_path)
    loader = models.loader(models.files_at(tmp_path))
    with loader._meter.change():
        servable = models.load_by(loader, version)
    servable.close()
    assert servable.size == loader.estimate(version)


def features(content: bytes) -> NDArray[np.int32]:
    """Magika's input: 1024 bytes from the start and 1024 from the end, blanks stripped; 256 stands for no byte."""
    start, end = list(content.lstrip()[:1024]), list(content.rstrip()[-1024:])
    padding = 256
    return np.array(
        start + [padding] * (1024 - len(start)) + [padding] * (1024 - len(end)) + end,
        np.int32,
    )


CONTENTS = {
    "python": b"import os\n\n\ndef main() -> None:\n    print(os.getcwd())\n\n\nmain()\n" * 5,
    "json": json.dumps([{"name": f"n{i}", "value": i, "tags": ["a", "b"]} for i in range(30)], indent=1).encode(),
    "png": (DIGITS / "seven.png").read_bytes(),
    "xml": (DIGITS / "1" / "model.xml").read_bytes()[:4000],
}


@pytest.fixture(scope="module")
def magika_servable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenVinoServable]:
    base = tmp_path_factory.mktemp("magika")
    (base / "1").mkdir()
    (base / "1" / "model.onnx").write_bytes((MAGIKA / "model.onnx").read_bytes())
    with models.loaded(base) as servable:
        yield servable


def test_an_onnx_model_has_the_signature_that_is_in_it(magika_servable: OpenVinoServable) -> None:
    signature = magika_servable.signatures[DEFAULT_SIGNATURE]
    assert list(signature.inputs.values()) == [TensorSpec("bytes", np.dtype(np.int32), (-1, 2048))]
    assert list(signature.outputs.values()) == [TensorSpec("target_label", np.dtype(np.float32), (-1, 214))]


def test_an_onnx_model_answers_as_onnxruntime_does(magika_servable: OpenVinoServable) -> None:
    batch = np.stack([features(content) for content in CONTENTS.values()])
    session = onnxruntime.InferenceSession(MAGIKA / "model.onnx", providers=["CPUExecutionProvider"])
    (want,) = session.run(["target_label"], {"bytes": batch})
    np.testing.assert_allclose(predict(magika_servable, bytes=batch)["target_label"], want, atol=1e-5)


def test_an_onnx_model_answers_as_its_own_package_does(magika_servable: OpenVinoServable) -> None:
    labels = json.loads((MAGIKA / "config.min.json").read_bytes())["target_labels_space"]
    identify = magika.Magika().identify_bytes
    for name, content in CONTENTS.items():
        scores = predict(magika_servable, bytes=features(content)[np.newaxis])["target_label"][0]
        result = identify(content)
        assert labels[int(scores.argmax())] == str(result.dl.label) == name
        assert float(scores.max()) == pytest.approx(result.score, abs=1e-4)


LOOK_AT_MODULES = """
import sys
from pathlib import Path
import numpy as np
from tests.runtime import models
with models.loaded(Path(sys.argv[1])) as servable:
    servable.predict("serving_default", {"image": np.zeros((1, 8, 8), np.float32)})
print(*sorted(name for name, module in sys.modules.items() if module is not None))
"""


def test_no_telemetry_and_no_converters_are_imported(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    for file in (DIGITS / "1").iterdir():
        (tmp_path / "1" / file.name).write_bytes(file.read_bytes())
    modules = run_python(LOOK_AT_MODULES, tmp_path).split()
    assert "openvino" in modules
    assert not [name for name in modules if name.startswith(("openvino.tools", "openvino_telemetry"))]


def time_left(seconds: float) -> float:
    return time.monotonic() + seconds


def test_a_request_whose_time_is_over_does_not_run(doubler: OpenVinoServable) -> None:
    with pytest.raises(DeadlineExceeded, match="before it could run, on model/1"):
        doubler.predict(DEFAULT_SIGNATURE, {"x": np.ones((1, 2), np.float32)}, time_left(-1))


@pytest.mark.parametrize("seconds", [5.0, 1e12, math.inf])
def test_a_request_whose_time_is_not_over_runs(seconds: float, doubler: OpenVinoServable) -> None:
    outputs = doubler.predict(DEFAULT_SIGNATURE, {"x": np.ones((1, 2), np.float32)}, time_left(seconds))
    assert outputs["y"].tolist() == [[2, 2]]


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenVinoServable]:
    """One infer request, for which others wait a tenth of a second at most."""
    base = tmp_path_factory.mktemp("slow")
    models.save(models.slow(), base)
    loader = OpenVinoLoader(models.files_at(base), {**models.F32, "NUM_STREAMS": "1"}, pool_timeout=0.1)
    servable = models.load_by(loader, models.version_at(base))
    yield servable
    servable.close()


ROWS = 300
"""Of what the slow model takes some tenths of a second for."""


def run_out_of_time(servable: OpenVinoServable) -> None:
    """Leave an inference running that nobody waits for any more."""
    with pytest.raises(DeadlineExceeded, match="while it ran, on model/1"):
        servable.predict(DEFAULT_SIGNATURE, {"x": np.ones((ROWS, 512), np.float32)}, time_left(0.01))


def predict_when_free(servable: OpenVinoServable, rows: int) -> NDArray[Any]:
    outputs = []

    def is_done() -> bool:
        with contextlib.suppress(Overloaded):
            outputs.append(servable.predict(DEFAULT_SIGNATURE, {"x": np.ones((rows, 512), np.float32)})["y"])
        return bool(outputs)

    until(is_done)
    return outputs[0]


def test_an_answer_that_comes_too_late_is_not_waited_for(slow: OpenVinoServable) -> None:
    began = time.monotonic()
    run_out_of_time(slow)
    answered = time.monotonic() - began
    assert predict_when_free(slow, 1).shape == (1, 512)
    # What the first one left was running all the while.
    assert answered < (time.monotonic() - began) / 2


def test_what_still_runs_keeps_its_input_and_its_output_to_itself(slow: OpenVinoServable) -> None:
    want = predict_when_free(slow, 3)
    for _ in range(3):
        run_out_of_time(slow)
        np.testing.assert_array_equal(predict_when_free(slow, 3), want)


def test_whoever_waits_too_long_for_an_infer_request_is_told(slow: OpenVinoServable) -> None:
    run_out_of_time(slow)
    with pytest.raises(Overloaded, match="model/1 had no free infer request"):
        slow.predict(DEFAULT_SIGNATURE, {"x": np.ones((1, 512), np.float32)})
    predict_when_free(slow, 1)


def test_time_may_be_over_while_others_have_the_infer_requests(slow: OpenVinoServable) -> None:
    run_out_of_time(slow)
    with pytest.raises(DeadlineExceeded, match="before it had a free infer request"):
        slow.predict(DEFAULT_SIGNATURE, {"x": np.ones((1, 512), np.float32)}, time_left(0.01))
    predict_when_free(slow, 1)


def test_closing_does_not_wait_for_what_still_runs_and_its_files_do(tmp_path: Path) -> None:
    models.save(models.slow(), tmp_path)
    files = models.files_at(tmp_path)
    servable = models.load_by(models.loader(files, NUM_STREAMS="1"), models.version_in_bucket(tmp_path))
    began = time.monotonic()
    run_out_of_time(servable)
    servable.close()
    closed = time.monotonic() - began
    assert is_in_use(files)
    until(lambda: not is_in_use(files))
    assert closed < (time.monotonic() - began) / 2


def dense() -> Any:
    """``y = x @ w``, with w [3, 2], of an x both of whose sizes are open."""
    from openvino import opset13 as ops

    x = ops.parameter([-1, -1], openvino().Type.f32, name="x")
    x.output(0).get_tensor().set_names({"x"})
    y = ops.matmul(x, ops.constant(np.ones((3, 2), np.float32)), False, False)
    y.output(0).get_tensor().set_names({"y"})
    return openvino().Model([y], [x], "dense")


@pytest.mark.parametrize(
    ("make", "shape", "answer"),
    [(dense, (2, 3), (0, 2)), (models.doubler, (2, 2), (0, 2)), (models.divider, (2,), (0,))],
)
def test_no_rows_are_answered_with_no_rows(
    make: Callable[[], Any], shape: tuple[int, ...], answer: tuple[int, ...], tmp_path: Path
) -> None:
    with models.serving(make(), tmp_path) as servable:
        predict(servable, x=np.ones(shape, np.float32))
        y = predict(servable, x=np.ones((0, *shape[1:]), np.float32))["y"]
    assert y.shape == answer
    assert y.dtype == np.float32


def test_strings_without_rows_are_answered_with_none_of_somebody_elses(tmp_path: Path) -> None:
    with models.serving(models.speller(), tmp_path) as servable:
        predict(servable, x=np.array([b"somebody", b"else"], object))
        outputs = predict(servable, x=np.empty(0, object))
    assert {name: (array.shape, array.dtype) for name, array in outputs.items()} == {
        "y": ((0,), np.dtype(object)),
        "length": ((0,), np.dtype(np.int32)),
    }


@pytest.mark.parametrize(
    ("make", "shape"), [(dense, (2, 0)), (models.summer, (0,)), (lambda: models.speller(2), (1, 0))]
)
def test_what_the_engine_would_answer_with_what_was_there_before_is_refused(
    make: Callable[[], Any], shape: tuple[int, ...], tmp_path: Path
) -> None:
    """As it does for the first, with the rows of the request before it."""
    with models.serving(make(), tmp_path) as servable:
        dtype = servable.signatures[DEFAULT_SIGNATURE].inputs["x"].dtype
        with pytest.raises(InvalidRequest, match=rf"model/1 cannot run inputs without elements: 'x' \({shape[0]},"):
            predict(servable, x=np.empty(shape, dtype))


def test_a_part_may_be_empty(tmp_path: Path) -> None:
    """As the past of a decoder is at its first step."""
    from openvino import opset13 as ops

    sizes = openvino().PartialShape([-1, 2])
    past, new = (ops.parameter(sizes, openvino().Type.f32, name=name) for name in ("past", "new"))
    for node in (past, new):
        node.output(0).get_tensor().set_names({node.get_friendly_name()})
    y = ops.concat([past, new], 0)
    y.output(0).get_tensor().set_names({"y"})
    with models.serving(openvino().Model([y], [past, new], "decoder"), tmp_path) as servable:
        x = np.ones((3, 2), np.float32)
        assert predict(servable, past=x, new=x)["y"].shape == (6, 2)
        assert predict(servable, past=x[:0], new=x)["y"].tolist() == x.tolist()


def test_small_inputs_of_any_sizes_in_any_order_are_computed_with(tmp_path: Path) -> None:
    large = np.arange(40_000, dtype=np.float32).reshape(-1, 2)
    with models.serving(models.doubler(), tmp_path) as servable:
        for x in (large[:1], large[1:2], large[2:5], large, large[5:6], large[::2][:3], large[3:4]):
            given = x.copy()
            (y,) = servable.predict(DEFAULT_SIGNATURE, {"x": x}).values()
            np.testing.assert_array_equal(y, given * 2)
            np.testing.assert_array_equal(x, given)
