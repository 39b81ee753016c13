"""Requests that are run as a version loads: recorded ones, and zeros."""

from __future__ import annotations

import logging
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest

from model_cache.errors import LoadFailed
from runtime.codecs import schema, tensor_proto
from runtime.errors import InferenceFailed, InvalidRequest
from runtime.servable import LoadPhases, Tensors
from runtime.signature import DEFAULT_SIGNATURE, Dtype, Signature, TensorSpec
from runtime.warmup import WarmingLoader
from tests.runtime import models
from tests.runtime.servables import F32, HalfPlusTwo, VersionLoader

STRING = np.dtype(object)


class Observed(HalfPlusTwo):
    """Half plus two, that keeps what it is asked and refuses what it is told to."""

    def __init__(self, version: int) -> None:
        super().__init__(version)
        self.asked: list[tuple[str, list[float]]] = []
        self.refused: list[float] | None = None

    def predict(self, signature_name: str, inputs: Tensors, deadline: float | None = None) -> Tensors:
        self.asked.append((signature_name, inputs["x"].tolist()))
        if self.refused == inputs["x"].tolist():
            raise InferenceFailed("I will not")
        return super().predict(signature_name, inputs, deadline)


class Typed:
    """Takes inputs of any kind, and keeps them."""

    size = 1
    concurrency = 1
    is_quick = False
    is_kept = False
    phases = LoadPhases(None, 0.25, 0.5)

    def __init__(self, **inputs: tuple[Dtype, tuple[int, ...] | None]) -> None:
        specs = {name: TensorSpec(name, dtype, shape) for name, (dtype, shape) in inputs.items()}
        self.signatures = {DEFAULT_SIGNATURE: Signature(specs, {})}
        self.asked: list[Tensors] = []

    def predict(self, signature_name: str, inputs: Tensors, deadline: float | None = None) -> Tensors:
        self.asked.append(inputs)
        return {}


def masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def framed(record: bytes) -> bytes:
    length = struct.pack("<Q", len(record))
    return length + masked(length) + record + masked(record)


def predict_log(*x: float, model: str = "", signature: str = "", key: str = "x") -> bytes:
    log = schema.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    tensor_proto.encode(np.array(x, np.float32), request.inputs[key])
    data: bytes = log.SerializeToString()
    return data


def log_of(kind: str) -> bytes:
    log = schema.PredictionLog()
    getattr(log, kind).SetInParent()
    data: bytes = log.SerializeToString()
    return data


def multi_inference_log() -> bytes:
    log = schema.PredictionLog()
    log.multi_inference_log.request.tasks.add(method_name="tensorflow/serving/guess")
    data: bytes = log.SerializeToString()
    return data


def put(base: Path, *records: bytes, data: bytes | None = None) -> Path:
    """A version that a fake loader loads, with these records beside it."""
    directory = base / "1"
    (directory / "assets.extra").mkdir(parents=True)
    (directory / "model.xml").touch()
    if records or data is not None:
        content = b"".join(map(framed, records)) if data is None else data
        (directory / "assets.extra" / "tf_serving_warmup_requests").write_bytes(content)
    return base


def load(base: Path, make: Callable[[int], Any] = Observed, *, iterations: int = 1, **options: Any) -> Any:
    inner = VersionLoader(make)
    return load_with(inner, base, iterations=iterations, **options)


def load_with(inner: VersionLoader, base: Path, *, iterations: int = 1, **options: Any) -> Any:
    flags = {"replays": True, "from_signature": False, **options}
    loader = WarmingLoader(inner, models.files_at(base), iterations=iterations, **flags)
    version = models.version_at(base)
    assert loader.estimate(version) == inner.estimate(version)
    return loader.load(version)


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "runtime.warmup"]


@pytest.fixture(autouse=True)
def information(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "runtime.warmup")


def test_recorded_requests_are_run_in_their_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Whatever model and version they were recorded of.
    put(tmp_path, predict_log(1, 2, model="elsewhere"), predict_log(3, signature="only_y"))
    servable = load(tmp_path, from_signature=True)
    assert servable.asked == [(DEFAULT_SIGNATURE, [1, 2]), ("only_y", [3])]
    assert not servable.is_closed
    (message,) = logged(caplog)
    assert message.startswith("warmed up model/1 with 2 recorded requests in ")


def test_each_is_run_as_often_as_wanted(tmp_path: Path) -> None:
    put(tmp_path, predict_log(1), predict_log(2))
    asked = [x for _, x in load(tmp_path, iterations=3).asked]
    assert asked == [[1], [1], [1], [2], [2], [2]]


def test_they_are_not_run_unless_wanted(tmp_path: Path) -> None:
    put(tmp_path, predict_log(1))
    assert load(tmp_path, replays=False).asked == []
    assert load(tmp_path, replays=False, from_signature=True).asked == [(DEFAULT_SIGNATURE, [0]), ("only_y", [0])]


@pytest.mark.parametrize("data", [b"", framed(b"")])
def test_a_file_with_nothing_in_it_is_fine(data: bytes, tmp_path: Path) -> None:
    put(tmp_path, data=data)
    assert load(tmp_path).asked == []


def test_a_thousand_records_are_run_and_no_more(tmp_path: Path) -> None:
    assert len(load(put(tmp_path / "a", *[predict_log(1)] * 1000)).asked) == 1000
    with pytest.raises(
        LoadFailed, match=r"^cannot warm up model/1: Number of warmup records exceeds the maximum \(1000\)$"
    ):
        load(put(tmp_path / "b", *[predict_log(1)] * 1001))


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([predict_log(1), predict_log(2, key="z")], "warm-up record 2 fails: "),
        ([predict_log(1, signature="none")], 'warm-up record 1 fails: Serving signature key "none" not found'),
        ([log_of("predict_log")], "warm-up record 1 fails: "),
        ([log_of("classify_log")], "warm-up record 1 fails: "),
        ([log_of("regress_log")], "warm-up record 1 fails: "),
        ([multi_inference_log()], "warm-up record 1 fails: "),
        ([log_of("session_run_log")], "record 1 is a session_run_log: Unsupported log_type for warmup: 5$"),
        ([log_of("predict_streamed_log")], "record 1 is a predict_streamed_log: Unsupported log_type for warmup: 7$"),
        ([predict_log(1), b"\xff"], "Failed to parse warmup record: record 2 is no PredictionLog$"),
    ],
)
def test_a_record_that_cannot_be_run_fails_the_load(records: list[bytes], message: str, tmp_path: Path) -> None:
    put(tmp_path, *records)
    inner = VersionLoader(Observed)
    with pytest.raises(LoadFailed, match=f"^cannot warm up model/1: .*{message}"):
        load_with(inner, tmp_path)
    assert inner.servables[1].is_closed


def test_a_request_that_fails_fails_the_load(tmp_path: Path) -> None:
    def make(version: int) -> Observed:
        servable = Observed(version)
        servable.refused = [2]
        return servable

    put(tmp_path, predict_log(1), predict_log(2))
    inner = VersionLoader(make)
    with pytest.raises(LoadFailed, match=r"^cannot warm up model/1: warm-up record 2 fails: I will not$"):
        load_with(inner, tmp_path)
    assert inner.servables[1].is_closed


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (framed(b"")[:-1], "truncated record at 0"),
        (framed(b"") + b"\0" * 12, "corrupted record at 16"),
        (b"this is no TFRecord file", "corrupted record at 0"),
    ],
)
def test_a_file_that_is_no_tfrecord_fails_the_load(data: bytes, what: str, tmp_path: Path) -> None:
    put(tmp_path, data=data)
    with pytest.raises(
        LoadFailed, match=f"^cannot warm up model/1: {what}. Please verify your warmup data is in TFRecord"
    ):
        load(tmp_path)


def test_a_file_that_cannot_be_read_fails_the_load(tmp_path: Path) -> None:
    put(tmp_path)
    # Nobody may look for its end, not even root.
    (tmp_path / "1" / "assets.extra" / "tf_serving_warmup_requests").symlink_to("/proc/self/mem")
    with pytest.raises(
        LoadFailed, match=r"^cannot warm up model/1: tf_serving_warmup_requests cannot be read: Invalid"
    ):
        load(tmp_path)


def test_a_bug_closes_what_was_loaded(tmp_path: Path) -> None:
    def make(version: int) -> Observed:
        servable = Observed(version)
        servable.bug = ZeroDivisionError()
        return servable

    put(tmp_path, predict_log(1))
    inner = VersionLoader(make)
    with pytest.raises(ZeroDivisionError):
        load_with(inner, tmp_path)
    assert inner.servables[1].is_closed


def test_without_protobuf_it_is_loaded_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, predict_log(1))
    monkeypatch.delitem(sys.modules, "runtime.warmup_records", raising=False)
    monkeypatch.setitem(sys.modules, "google.protobuf.message", None)
    assert load(tmp_path, from_signature=True).asked == [(DEFAULT_SIGNATURE, [0]), ("only_y", [0])]
    warning = caplog.records[0]
    assert (warning.levelname, warning.getMessage()) == (
        "WARNING",
        "model/1 is not warmed up as recorded: google.protobuf.message is not installed; "
        "try: pip install 'decant[grpc]'",
    )


def test_without_records_each_signature_is_run_with_zeros(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load(put(tmp_path), from_signature=True).asked == [(DEFAULT_SIGNATURE, [0]), ("only_y", [0])]
    assert [message.partition(" in ")[0] for message in logged(caplog)] == [
        "warmed up serving_default of model/1 with zeros",
        "warmed up only_y of model/1 with zeros",
    ]


def test_zeros_are_as_large_as_they_have_to_be(tmp_path: Path) -> None:
    def make(version: int) -> Typed:
        servable = Typed(x=(F32, (-1, 5, -1)))
        signature = servable.signatures[DEFAULT_SIGNATURE]
        x = signature.inputs["x"]._replace(bounds=((2, 4), (5, 5), (0, -1)))
        servable.signatures[DEFAULT_SIGNATURE] = signature._replace(inputs={"x": x})
        return servable

    ((given),) = load(put(tmp_path), make, from_signature=True).asked
    assert given["x"].shape == (2, 5, 1)


def test_zeros_have_the_declared_shapes_with_ones_where_these_are_open(tmp_path: Path) -> None:
    servable = load(
        put(tmp_path),
        lambda version: Typed(
            image=(F32, (-1, 3, -1)), number=(np.dtype(np.int64), ()), text=(STRING, (-1, 2)), any=(F32, None)
        ),
        from_signature=True,
    )
    ((given),) = servable.asked
    shapes = {name: (array.dtype, array.shape) for name, array in given.items()}
    assert shapes == {
        "image": (F32, (1, 3, 1)),
        "number": (np.dtype(np.int64), ()),
        "text": (STRING, (1, 2)),
        "any": (F32, ()),
    }
    assert given["text"].tolist() == [[b"", b""]]
    assert given["image"].tolist() == [[[0], [0], [0]]]


def test_a_model_that_refuses_zeros_is_loaded_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def make(version: int) -> HalfPlusTwo:
        servable = HalfPlusTwo(version)
        servable.bug = InvalidRequest("no zeros, please")
        return servable

    assert not load(put(tmp_path), make, from_signature=True).is_closed
    assert [record.levelname for record in caplog.records if record.name == "runtime.warmup"] == ["INFO", "INFO"]
    assert logged(caplog)[0] == "did not warm up serving_default of model/1, as it fails for zeros: no zeros, please"


def test_zeros_that_would_take_much_memory_are_not_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    servable = load(
        put(tmp_path),
        lambda version: Typed(huge=(F32, (1 << 30, 1 << 40)), small=(F32, (1,))),
        from_signature=True,
    )
    assert servable.asked == []
    assert logged(caplog) == [
        f"did not warm up serving_default of model/1: its inputs would take {(1 << 72) + 4} bytes, of {256 << 20}"
    ]


def test_a_real_model_is_warmed_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = models.save(models.adder(), tmp_path)
    files = models.files_at(tmp_path)
    loader = WarmingLoader(models.loader(files), files, replays=True, iterations=2, from_signature=True)
    servable = loader.load(models.version_at(tmp_path))
    servable.close()
    # Part of the load's time, as nobody is answered before it is over.
    assert 0 < servable.phases.warm_up < servable.phases.total - servable.phases.compile

    def log(**sizes: int) -> bytes:
        message = schema.PredictionLog()
        for name, size in sizes.items():
            tensor_proto.encode(np.ones(size, np.float32), message.predict_log.request.inputs[name])
        data: bytes = message.SerializeToString()
        return data

    (directory / "assets.extra").mkdir()
    (directory / "assets.extra" / "tf_serving_warmup_requests").write_bytes(framed(log(a=3, b=3)))
    loader.load(models.version_at(tmp_path)).close()
    zeros, recorded = logged(caplog)
    assert zeros.startswith("warmed up serving_default of model/1 with zeros in ")
    assert recorded.startswith("warmed up model/1 with 1 recorded requests in ")
    # Sizes that do not go together.
    (directory / "assets.extra" / "tf_serving_warmup_requests").write_bytes(framed(log(a=3, b=2)))
    with pytest.raises(
        LoadFailed, match=r"^cannot warm up model/1: warm-up record 1 fails: .* cannot run these inputs"
    ):
        loader.load(models.version_at(tmp_path))


@pytest.mark.parametrize("is_awaited", [True, False])
def test_zeros_do_not_come_before_requests_that_wait(
    is_awaited: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    servable = load(put(tmp_path), from_signature=True, is_awaited=lambda version: is_awaited)
    assert bool(servable.asked) is not is_awaited
    assert ("as requests wait" in "".join(logged(caplog))) is is_awaited


def test_recorded_requests_come_before_those_that_wait(tmp_path: Path) -> None:
    servable = load(put(tmp_path, predict_log(1, 2)), from_signature=True, is_awaited=lambda version: True)
    assert len(servable.asked) == 1
