"""The parameters of batching, TensorFlow Serving's text of them, and which models are batched."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_cache.errors import LoadFailed
from runtime.batching import BatchingLoader, BatchingParameters, parse_parameters
from runtime.batching_servable import BatchingServable
from runtime.errors import QUOTED
from runtime.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from tests.fakes import until
from tests.runtime import models
from tests.runtime.servables import F32, HalfPlusTwo, VersionLoader

TEXT = """
# As in TensorFlow Serving's guide.
max_batch_size { value: 128 }
batch_timeout_micros: { value: 5000 },
max_enqueued_batches { value: 100 }
num_batch_threads { value: 4 }
thread_pool_name { value: "batch_threads" }
allowed_batch_sizes: [8, 32]
allowed_batch_sizes: 64
pad_variable_length_inputs: true
enable_large_batch_splitting { value: true }
max_execution_batch_size { value: 64 }
"""


def test_the_defaults_are_tensorflow_servings() -> None:
    assert dataclasses.asdict(BatchingParameters()) == {
        "max_batch_size": 1000,
        "batch_timeout_micros": 0,
        "max_enqueued_batches": 10,
        "num_batch_threads": 0,
        "allowed_batch_sizes": (),
        "pad_variable_length_inputs": False,
        "enable_large_batch_splitting": False,
        "max_execution_batch_size": 0,
    }
    assert parse_parameters("") == BatchingParameters()


def test_every_field_of_the_text_is_read() -> None:
    assert parse_parameters(TEXT) == BatchingParameters(
        max_batch_size=128,
        batch_timeout_micros=5000,
        max_enqueued_batches=100,
        num_batch_threads=4,
        allowed_batch_sizes=(8, 32, 64),
        pad_variable_length_inputs=True,
        enable_large_batch_splitting=True,
        max_execution_batch_size=64,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "max_batch: 3",
            'not a text proto of BatchingParameters: 1:1 : Message type .* has no field named "max_batch"',
        ),
        ("max_batch_size: 3", "not a text proto of BatchingParameters: 1:17 : .*Expected"),
        ("max_batch_size { value: 'x' }", "Couldn't parse integer: 'x'"),
        ("max_batch_size { value: 0 }", "^max_batch_size is 0; want 1 or more$"),
        ("num_batch_threads { value: 0 }", "^num_batch_threads is 0; want 1 or more, or no such field$"),
        ("batch_timeout_micros { value: -1 }", "^batch_timeout_micros is -1; want 0 or more$"),
        ("max_enqueued_batches { value: 0 }", "^max_enqueued_batches is 0; want 1 or more$"),
        ("max_execution_batch_size { value: -1 }", "^max_execution_batch_size is -1; want 0 or more$"),
        (
            "max_execution_batch_size { value: 1001 }",
            "^max_execution_batch_size is 1001; want no more than max_batch_size, which is 1000$",
        ),
        (
            "allowed_batch_sizes: [2, 1, 1000]",
            r"^allowed_batch_sizes is \[2, 1, 1000\]; want positive sizes, each larger",
        ),
        ("allowed_batch_sizes: [2, 2, 1000]", "each larger than the last$"),
        ("allowed_batch_sizes: [0, 1000]", "want positive sizes"),
        ("allowed_batch_sizes: [8, 16]", "^allowed_batch_sizes ends in 16; want max_batch_size, which is 1000$"),
        (
            "allowed_batch_sizes: 16 max_execution_batch_size { value: 8 } enable_large_batch_splitting { value: 1 }",
            "^allowed_batch_sizes ends in 16; want max_execution_batch_size, which is 8$",
        ),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_parameters(text)


def test_batches_are_as_large_as_requests_unless_large_ones_are_split() -> None:
    assert BatchingParameters(max_batch_size=8, max_execution_batch_size=2).batch_limit == 8
    assert BatchingParameters(max_batch_size=8, enable_large_batch_splitting=True).batch_limit == 8
    split = BatchingParameters(max_batch_size=8, max_execution_batch_size=2, enable_large_batch_splitting=True)
    assert split.batch_limit == 2


def put(base: Path, text: str | bytes | None = None) -> None:
    """A version with a model that a fake loader does not look at, and perhaps with parameters."""
    (base / "1").mkdir()
    (base / "1" / "model.xml").touch()
    if text is not None:
        (base / "1" / "batching_params.pbtxt").write_bytes(text if isinstance(text, bytes) else text.encode())


def load(base: Path, inner: VersionLoader, **options: Any) -> Any:
    loader = BatchingLoader(inner, models.files_at(base), **{"parameters": None, "reads_per_model": False, **options})
    version = models.version_at(base)
    assert loader.estimate(version) == inner.estimate(version)
    return loader.load(version)


def test_without_parameters_there_is_nothing_around_the_servable(tmp_path: Path) -> None:
    put(tmp_path, TEXT)
    inner = VersionLoader()
    assert load(tmp_path, inner) is inner.servables[1]


def test_with_parameters_it_is_batched(tmp_path: Path) -> None:
    put(tmp_path)
    servable = load(tmp_path, VersionLoader(), parameters=BatchingParameters(max_batch_size=2))
    assert isinstance(servable, BatchingServable)
    assert repr(servable) == "<BatchingServable model/1 1 free, 0 waiting in 0 batches>"
    assert servable.predict(DEFAULT_SIGNATURE, {"x": np.array([1, 2], np.float32)})["y"].tolist() == [2.5, 3]


@pytest.mark.parametrize("parameters", [None, BatchingParameters(num_batch_threads=2)])
def test_a_versions_own_parameters_count_if_wanted(parameters: BatchingParameters | None, tmp_path: Path) -> None:
    put(tmp_path, "num_batch_threads { value: 5 }")
    servable = load(tmp_path, VersionLoader(), parameters=parameters, reads_per_model=True)
    assert repr(servable) == "<BatchingServable model/1 5 free, 0 waiting in 0 batches>"


def test_a_version_without_parameters_has_everybodys_or_none(tmp_path: Path) -> None:
    put(tmp_path)
    inner = VersionLoader()
    assert load(tmp_path, inner, reads_per_model=True) is inner.servables[1]
    servable = load(tmp_path, inner, parameters=BatchingParameters(num_batch_threads=2), reads_per_model=True)
    assert "2 free" in repr(servable)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size { value: 0 }", "^batching_params.pbtxt of model/1: max_batch_size is 0; want 1 or more$"),
        ("?", "^batching_params.pbtxt of model/1: not a text proto of BatchingParameters: 1:1 : "),
        (b"max\xff", "^batching_params.pbtxt of model/1 has bytes that are no UTF-8 at 3; want text$"),
        (" " * 65537, "^batching_params.pbtxt of model/1 has more than 65536 bytes$"),
    ],
)
def test_a_version_with_broken_parameters_does_not_load(text: str | bytes, message: str, tmp_path: Path) -> None:
    put(tmp_path, text)
    inner = VersionLoader()
    with pytest.raises(LoadFailed, match=message):
        load(tmp_path, inner, reads_per_model=True)
    assert inner.servables[1].is_closed


def test_where_a_version_is_stored_is_not_told_with_what_is_wrong_with_its_parameters(tmp_path: Path) -> None:
    put(tmp_path)
    (tmp_path / "1" / "batching_params.pbtxt").mkdir()
    with pytest.raises(LoadFailed, match=r"^batching_params.pbtxt of model/1 cannot be read: Is a directory$"):
        load(tmp_path, VersionLoader(), reads_per_model=True)


@pytest.mark.parametrize(
    "text",
    ["é" * 30_000, f"{'a' * 60_000}: 1", f"max_batch_size: {'9' * 60_000}", f"allowed_batch_sizes: {[1] * 20_000}"],
    ids=["no name", "a name", "a number", "sizes"],
)
def test_of_a_version_with_broken_parameters_an_error_quotes_so_much_and_no_more(text: str, tmp_path: Path) -> None:
    put(tmp_path, text)
    with pytest.raises(LoadFailed) as caught:
        load(tmp_path, VersionLoader(), reads_per_model=True)
    assert len(str(caught.value).encode()) < QUOTED + 150


def test_without_protobuf_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, TEXT)
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    with pytest.raises(
        LoadFailed, match=r"needs google.protobuf, which is not installed; try: pip install 'decant\[grpc"
    ):
        load(tmp_path, VersionLoader(), reads_per_model=True)


def batched(base: Path, model: Any, **parameters: Any) -> Any:
    models.save(model, base)
    files = models.files_at(base)
    loader = BatchingLoader(
        models.loader(files), files, parameters=BatchingParameters(**parameters), reads_per_model=False
    )
    return loader.load(models.version_at(base))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (models.reshaper, "input 'x' has shape (4,)"),
        (models.summer, "output 'total' has shape ()"),
        (models.crossing, "input 'right' has shape (2, -1)"),
        (lambda: models.doubler(shape=()), "input 'x' has shape ()"),
    ],
)
def test_a_model_whose_shapes_cannot_be_stacked_is_not_batched(
    model: Callable[[], Any], reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "runtime.batching")
    servable = batched(tmp_path, model())
    servable.close()
    assert not isinstance(servable, BatchingServable)
    (message,) = (record.getMessage() for record in caplog.records if record.name == "runtime.batching")
    assert message == f"requests to serving_default of model/1 are not batched: {reason}; want an open first dimension"


@pytest.mark.parametrize("layout_of", ["input 'x'", "output 'y'"])
def test_a_layout_that_begins_with_something_else_is_not_batched(
    layout_of: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    x, y = TensorSpec("x", F32, (-1, -1), "NC"), TensorSpec("y", F32, (-1, -1), "N...")

    def make(version: int) -> HalfPlusTwo:
        servable = HalfPlusTwo(version)
        servable.signatures["good"] = Signature({"x": x}, {"y": y})
        taken, given = (x._replace(layout="CN"), y) if layout_of == "input 'x'" else (x, y._replace(layout="CN"))
        servable.signatures["other"] = Signature({"x": taken}, {"y": given})
        return servable

    caplog.set_level(logging.INFO, "runtime.batching")
    put(tmp_path)
    load(tmp_path, VersionLoader(make), parameters=BatchingParameters())
    assert [record.getMessage() for record in caplog.records if record.name == "runtime.batching"] == [
        f"requests to other of model/1 are not batched: {layout_of} has layout CN; want one that begins with N"
    ]


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({}, "it has no inputs"),
        ({"x": TensorSpec("x", F32, None)}, "input 'x' has shape None; want an open first dimension"),
    ],
)
def test_a_signature_without_a_first_dimension_is_not_batched(
    inputs: dict[str, TensorSpec], reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def make(version: int) -> HalfPlusTwo:
        servable = HalfPlusTwo(version)
        servable.signatures["only_y"] = Signature(inputs, {})
        return servable

    caplog.set_level(logging.INFO, "runtime.batching")
    put(tmp_path)
    # The other signature is.
    assert isinstance(load(tmp_path, VersionLoader(make), parameters=BatchingParameters()), BatchingServable)
    assert [record.getMessage() for record in caplog.records if record.name == "runtime.batching"] == [
        f"requests to only_y of model/1 are not batched: {reason}"
    ]


@pytest.mark.parametrize("parameters", [{}, {"max_batch_size": 8, "allowed_batch_sizes": (4, 8)}])
def test_a_real_model_answers_everybody_their_own(parameters: dict[str, Any], tmp_path: Path) -> None:
    servable = batched(tmp_path, models.weighty(), **parameters)
    weights = np.arange(64 * 64, dtype=np.float32).reshape(64, 64)

    def ask(number: int) -> None:
        x = np.zeros((1 + number % 3, 64), np.float32)
        x[:, number % 64] = number
        y = servable.predict(DEFAULT_SIGNATURE, {"x": x})["y"]
        assert y.tolist() == (x @ weights).tolist()

    with ThreadPoolExecutor(16) as threads:
        for done in [threads.submit(ask, number) for number in range(400)]:
            done.result()
    until(lambda: "0 waiting" in repr(servable))
    servable.close()
