"""Compiled models in files: that they answer as what they were made of, and that none is used which would not."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import google_crc32c
import magika
import numpy as np
import pytest
from numpy.typing import NDArray

from model_cache.disk import DiskCache
from model_cache.repository import ModelVersion
from runtime.compiled import (
    DEFAULTS,
    SLOW_IMPORTS,
    CompiledFiles,
    CompiledModel,
    Header,
    Origin,
    Unfit,
    beginning_of,
    read,
)
from runtime.compiler import Recipe, compile_to_export, exported
from runtime.engine import OpenVinoLoader
from runtime.openvino_core import core, openvino
from runtime.openvino_servable import OpenVinoServable
from runtime.options import AUTO, ImageSteps, Layout, ModelOptions, Stateful
from runtime.options import DEFAULTS as DEFAULT_OPTIONS
from runtime.servable import Tensors
from tests.fakes import PATIENCE, until
from tests.runtime import models
from tests.servers.processes import clean_environment

# After the tests' models, which keep telemetry out.
from openvino import opset13 as ops  # isort: skip

ROOT = Path(__file__).parents[2]
MAGIKA = Path(magika.__file__).parent / "models" / "standard_v3_3"
Config = Mapping[str, str]


class Home:
    """A model in a bucket, and the cache directory of the processes that serve it."""

    def __init__(self, directory: Path, model: Any = None, *, is_in_place: bool = False) -> None:
        self.base = directory / "model"
        self.cache = directory / "cache"
        self.budget = 1 << 30
        self.beginning: str | None = ""
        self.options = DEFAULT_OPTIONS
        self._is_in_place = is_in_place
        if model is not None:
            models.save(model, self.base)

    @property
    def version(self) -> ModelVersion:
        version = models.version_at if self._is_in_place else models.version_in_bucket
        return version(self.base, options=self.options)

    @property
    def bin(self) -> Path:
        return self.base / "1" / "model.bin"

    @property
    def kept(self) -> list[Path]:
        return sorted(self.cache.rglob("*.blob"))

    def loader(
        self,
        quiet: float = 0.0,
        *,
        uses: bool = True,
        keeps: bool = True,
        config: Config | None = None,
        extension: str = "",
    ) -> OpenVinoLoader:
        """As a new process has one, a minute after whatever was done to the files."""
        beginning = self.beginning
        files = DiskCache(self.cache, self.budget, compiled=None if beginning is None else lambda _: beginning)
        config = {**models.F32, **(config or {})}
        return OpenVinoLoader(
            files,
            config,
            uses_compiled=uses,
            keeps_compiled=keeps,
            extension=extension,
            quiet=quiet,
            clock=lambda: time.time() + 60,
        )

    @contextmanager
    def loaded(self, config: Config | None = None) -> Iterator[OpenVinoServable]:
        servable = models.load_by(self.loader(config=config), self.version)
        try:
            yield servable
        finally:
            servable.close()

    def run(self, x: Tensors | None = None, config: Config | None = None) -> tuple[bool, Tensors]:
        """Load, answer and end as a process would; return whether what was compiled before was imported."""
        with self.loaded(config) as servable:
            answer = servable.predict("serving_default", inputs_of(servable) if x is None else x)
            if servable.chore is not None:
                servable.chore.wait(PATIENCE)
            return servable.phases.is_imported, answer

    def make(self) -> Path:
        """Compile it; return the file that is kept."""
        assert not self.run()[0]
        (kept,) = self.kept
        return kept


def inputs_of(servable: OpenVinoServable) -> Tensors:
    rng = np.random.default_rng(0)
    made: dict[str, NDArray[Any]] = {}
    for name, spec in servable.signatures["serving_default"].inputs.items():
        shape = [3 if size == -1 else size for size in spec.shape or ()]
        made[name] = (
            np.full(shape, "Käse".encode(), object)
            if spec.dtype == object
            else (rng.random(shape) * 5).astype(spec.dtype)
        )
    return made


def are_equal(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and one[name].tobytes() == other[name].tobytes()
        if one[name].dtype != object
        else one[name].tolist() == other[name].tolist()
        for name in one
    )


def folding() -> Any:
    """``y = (3x3 convolution of x with ones) * scale + shift``, of which OpenVINO folds some into the weights."""
    x = ops.parameter([1, 1, 3, 3], openvino().Type.f32, name="x")
    x.output(0).get_tensor().set_names({"x"})
    scale, shift = (np.arange(1, 5, dtype=np.float32).reshape(1, 4, 1, 1) * by for by in (2, 3))
    y = ops.convolution(x, np.ones((4, 1, 3, 3), np.float32), [1, 1], [0, 0], [0, 0], [1, 1])
    y = ops.add(ops.multiply(y, ops.constant(scale)), ops.constant(shift))
    y.output(0).get_tensor().set_names({"y"})
    return openvino().Model([ops.result(y)], [x], "folding")


def adding() -> Any:
    """``y = a + b + a weight``."""
    a, b = (ops.parameter(openvino().PartialShape([-1]), np.float32, name=name) for name in "ab")
    for node, name in ((a, "a"), (b, "b")):
        node.output(0).get_tensor().set_names({name})
    y = ops.add(ops.add(a, b), ops.constant(np.array([3], np.float32)))
    y.output(0).get_tensor().set_names({"y"})
    return openvino().Model([ops.result(y)], [a, b], "adding")


def counter() -> Any:
    """``y = the sum of all x so far``, kept in a state."""
    x = ops.parameter([1, 2], openvino().Type.f32, name="x")
    x.output(0).get_tensor().set_names({"x"})
    before = ops.read_value(np.zeros((1, 2), np.float32), "sum", openvino().Type.f32, openvino().PartialShape([1, 2]))
    y = ops.add(before, x)
    y.output(0).get_tensor().set_names({"y"})
    return openvino().Model([ops.result(y)], [ops.assign(y, "sum")], [x], "counter")


MODELS: Mapping[str, Callable[[], Any]] = {
    "weights": models.weighty,
    "folded weights": folding,
    "several inputs and outputs, dynamic": models.crossing,
    "dynamic in values": models.reshaper,
    "strings": models.speller,
    "state": counter,
    "no names": models.nameless,
    "scalar": models.summer,
    "boolean": lambda: models.doubler("boolean"),
    "bf16": lambda: models.doubler("bf16"),
    "f16": lambda: models.doubler("f16"),
    "f64": lambda: models.doubler("f64"),
    "u64": lambda: models.doubler("u64"),
}


def in_a_row(servable: OpenVinoServable, inputs: Tensors, count: int) -> list[Tensors]:
    """Return the answers to the same, each from the state after the one before."""
    answers, state = [], None
    for _ in range(count):
        outputs, state = servable.advance("serving_default", inputs, state)
        answers.append(outputs)
    return answers


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_what_is_imported_has_the_signature_and_the_answers_of_what_was_compiled(
    name: str, precision: str, tmp_path: Path
) -> None:
    home = Home(tmp_path, MODELS[name]())
    reshaped: Tensors = {"shape": np.array([2, 2], np.int64), "x": np.arange(4, dtype=np.float32)}
    found = []
    for _ in range(2):
        with home.loaded({"INFERENCE_PRECISION_HINT": precision}) as servable:
            given = reshaped if "values" in name else inputs_of(servable)
            answers = in_a_row(servable, given, 3)
            assert servable.chore is None or servable.chore.wait(PATIENCE)
            found.append((servable.phases.is_imported, servable.signatures, answers))
    (is_imported, signatures, before), (is_imported_again, signatures_again, after) = found
    assert (is_imported, is_imported_again) == (False, True)
    assert signatures_again == signatures
    assert all(map(are_equal, before, after))
    assert {*map(are_equal, before, before[1:])} == {name != "state"}


def test_weights_are_not_in_the_file(tmp_path: Path) -> None:
    home = Home(tmp_path, models.weighty(512))
    assert home.make().stat().st_size < 10_000 < home.bin.stat().st_size


def test_nothing_is_kept_before_the_first_answer_nor_while_the_model_is_not_left_alone(tmp_path: Path) -> None:
    home = Home(tmp_path, models.weighty())
    servable = models.load_by(home.loader(quiet=3600), home.version)
    assert servable.chore is not None
    assert not servable.chore.wait(0)
    servable.predict("serving_default", inputs_of(servable))
    assert not servable.chore.is_due
    assert not servable.chore.wait(0)
    # And whoever closes it does not wait for the hour to be over.
    servable.close()
    assert home.kept == []


def test_what_is_switched_off_is_neither_made_nor_used(tmp_path: Path) -> None:
    home = Home(tmp_path, models.weighty())
    home.make()
    before = {path: path.read_bytes() for path in home.cache.rglob("*") if path.is_file()}
    servable = models.load_by(home.loader(uses=False), home.version)
    servable.predict("serving_default", inputs_of(servable))
    servable.close()
    assert not servable.phases.is_imported
    assert servable.chore is None
    assert {path: path.read_bytes() for path in home.cache.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("is_in_place", [False, True], ids=["fetched", "in place"])
def test_who_keeps_nothing_uses_what_others_have_made_all_the_same(is_in_place: bool, tmp_path: Path) -> None:
    home = Home(tmp_path, models.weighty(), is_in_place=is_in_place)
    for is_there in (False, True):
        if is_there:
            published(home)
        servable = models.load_by(home.loader(keeps=False), home.version)
        servable.predict("serving_default", inputs_of(servable))
        assert servable.chore is None
        servable.close()
        assert servable.phases.is_imported == is_there
    # But for what was fetched along.
    assert len(home.kept) == (0 if is_in_place else 1)


def test_who_tells_openvino_where_to_cache_has_no_second_cache(tmp_path: Path) -> None:
    home = Home(tmp_path, models.weighty())
    for _ in range(2):
        assert not home.run(config={"CACHE_DIR": str(tmp_path / "openvinos")})[0]
    assert home.kept == []


def test_of_an_onnx_model_nothing_is_kept(tmp_path: Path) -> None:
    home = Home(tmp_path)
    (home.base / "1").mkdir(parents=True)
    (home.base / "1" / "model.onnx").write_bytes((MAGIKA / "model.onnx").read_bytes())
    for _ in range(2):
        assert not home.run()[0]
    assert home.kept == []


# --- files that do not fit


def rewritten(**changes: Any) -> Callable[[Path], None]:
    """A file with another header."""

    def rewrite(path: Path) -> None:
        found = read(path)
        path.write_bytes(found._replace(header=found.header._replace(**changes)).to_bytes())

    return rewrite


def of_other(field: str, value: Any) -> Callable[[Path], None]:
    """A file that says so of the model that it was made of."""

    def rewrite(path: Path) -> None:
        origin = read(path).header.origin
        rewritten(origin=Origin(**{**origin._asdict(), field: value}))(path)

    return rewrite


def of_another_processor(path: Path) -> None:
    """A file as another processor would have written it, as far as can be told here."""
    found = read(path)
    requirements = found.header.requirements.replace("isa=", "isa=q")[: len(found.header.requirements)]
    blob = found.blob.replace(found.header.requirements.encode(), requirements.encode())
    assert blob != found.blob
    digest = hashlib.sha256(blob).hexdigest()
    header = found.header._replace(requirements=requirements, sha256=digest)
    path.write_bytes(CompiledModel(header, blob).to_bytes())


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def with_a_bit_flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


def with_other_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def rewrite(path: Path) -> None:
        line, _, blob = path.read_bytes().partition(b"\n")
        content = json.loads(line)
        change(content)
        path.write_bytes(json.dumps(content).encode() + b"\n" + blob)

    return rewrite


def written(data: bytes) -> Callable[[Path], None]:
    return lambda path: void(path.write_bytes(data))


def void(_: object) -> None: ...


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


DAMAGES: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "other OpenVINO": (rewritten(openvino="2026.3.0-1-abc"), "it was made by OpenVINO 2026.3.0-1-abc"),
    "other processor": (of_another_processor, "different runtime configuration"),
    "says other processor": (rewritten(requirements="meta=1.0;isa=made up"), "it wants"),
    "other properties": (rewritten(properties={"PERFORMANCE_HINT": "THROUGHPUT"}), "it was compiled with"),
    "other .xml": (of_other("model", "0" * 64), "it is of another model"),
    "other size of .bin": (of_other("size", 1), "it is of another model"),
    "other .bin": (of_other("weights", "crc32c:0"), "it is of another model"),
    "truncated": (truncated, "it is not what was written"),
    "a bit flipped": (with_a_bit_flipped, "it is not what was written"),
    "longer": (lambda path: void(path.write_bytes(path.read_bytes() + b"x")), "it is not what was written"),
    "from the future": (with_other_header(lambda header: header.update(format=2)), "it is of another format"),
    "a field missing": (with_other_header(lambda header: header.pop("sha256")), "cannot be understood"),
    "a field too many": (with_other_header(lambda header: header.update(more=1)), "cannot be understood"),
    "a size that is text": (with_other_header(lambda header: header.update(size="1")), "cannot be understood"),
    "no origin": (with_other_header(lambda header: header.update(origin=None)), "cannot be understood"),
    "properties of numbers": (with_other_header(lambda header: header.update(properties={"A": 1})), "understood"),
    "empty": (written(b""), "it has no header"),
    "garbage": (written(os.urandom(1000).replace(b"\n", b"")), "it has no header"),
    "no JSON": (written(b"{\n" + b"x" * 100), "cannot be understood"),
    "deep JSON": (written(b"[" * 10000 + b"\n"), "cannot be understood"),
    "a list": (written(b"[]\nx"), "cannot be understood"),
    "a header without end": (written(b" " * 20000 + b"\n"), "it has no header"),
    "a directory": (directory, "it is no file"),
    "a pipe": (pipe, "it is no file"),
    "a link to itself": (loop, "it is no file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_does_not_fit_is_passed_over_and_the_model_compiled(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    do, reason = DAMAGES[damage]
    home = Home(tmp_path, models.weighty())
    _, right = home.run()
    do(home.kept[0])
    with caplog.at_level(logging.DEBUG, "runtime"):
        is_imported, answer = home.run()
    assert not is_imported
    assert are_equal(answer, right)
    said = [record for record in caplog.records if "passing over" in record.message]
    assert [record.levelname for record in said] == ["DEBUG"]
    assert reason in said[0].message
    if damage != "a directory":
        # What does not fit has made place for what does.
        assert home.run()[0]


def test_a_file_that_is_too_large_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "large.blob"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(Unfit, match="too large"):
        read(path)


def test_a_file_of_another_model_of_the_same_name_is_passed_over(tmp_path: Path) -> None:
    home, other = Home(tmp_path / "a", models.weighty()), Home(tmp_path / "b", models.slow(2))
    wrong = other.make().read_bytes()
    home.make().write_bytes(wrong)
    with home.loaded() as servable:
        assert not servable.phases.is_imported
        assert next(iter(servable.signatures["serving_default"].inputs.values())).shape == (-1, 64)


def test_one_config_does_not_use_what_was_compiled_for_another(tmp_path: Path) -> None:
    home = Home(tmp_path, models.weighty())
    home.make()
    configs: list[Config] = [{"PERFORMANCE_HINT": "THROUGHPUT"}, {"NUM_STREAMS": "2"}]
    for changed in configs:
        assert not home.run(config=changed)[0]
        assert home.run(config=changed)[0]
    assert home.run()[0]
    assert len(home.kept) == 3
    assert beginning_of({"a": "1", "b": "2"}) == beginning_of({"b": "2", "a": "1"}) != beginning_of({"a": "1"})


THREADS: Mapping[str, tuple[Config, Config]] = {
    "one for all": ({"INFERENCE_NUM_THREADS": "1", "ENABLE_CPU_PINNING": "NO"}, {}),
    "all for one": ({}, {"INFERENCE_NUM_THREADS": "1", "ENABLE_CPU_PINNING": "NO"}),
    "pinned for not": ({"ENABLE_CPU_PINNING": "YES"}, {"ENABLE_CPU_PINNING": "NO"}),
}


def picture() -> Any:
    """``y = folding`` of NCHW images of any size, with as many channels as there are ways to get it wrong."""
    x = ops.parameter(openvino().PartialShape([1, 3, -1, -1]), openvino().Type.f32, name="x")
    x.output(0).get_tensor().set_names({"x"})
    weights = np.arange(27, dtype=np.float32).reshape(1, 3, 3, 3)
    y = ops.convolution(x, weights, [1, 1], [0, 0], [0, 0], [1, 1])
    y.output(0).get_tensor().set_names({"y"})
    return openvino().Model([ops.result(y)], [x], "picture")


def of_size(*sizes: int) -> tuple[tuple[int, int], ...]:
    return tuple((size, size) if size >= 0 else (0, -1) for size in sizes)


NHWC = (("x", Layout("NHWC", "NCHW")),)
OPTIONS: Mapping[str, ModelOptions] = {
    "none": DEFAULT_OPTIONS,
    "shape": ModelOptions(shape=(("x", of_size(1, 3, 5, 5)),)),
    "other shape": ModelOptions(shape=(("x", of_size(1, 3, 6, 5)),)),
    "range": ModelOptions(shape=(("x", ((1, 1), (3, 3), (3, 9), (3, 9))),)),
    "batch size": ModelOptions(batch_size=(2, 2)),
    "layout": ModelOptions(layout=NHWC),
    "one layout": ModelOptions(layout=(("x", Layout("NHWC")),)),
    "layout and shape": ModelOptions(layout=NHWC, shape=(("x", of_size(1, 5, 5, 3)),)),
    "mean": ModelOptions(layout=NHWC, steps=(("x", ImageSteps(mean=(1.0,))),)),
    "other mean": ModelOptions(layout=NHWC, steps=(("x", ImageSteps(mean=(2.0,))),)),
    "scale": ModelOptions(layout=NHWC, steps=(("x", ImageSteps(scale=(2.0,))),)),
    "colours": ModelOptions(layout=NHWC, steps=(("x", ImageSteps(color_format=("RGB", "BGR"))),)),
    "precision": ModelOptions(steps=(("x", ImageSteps(precision=("u8", "f32"))),)),
    "low latency": ModelOptions(stateful=Stateful(has_low_latency=True)),
    "auto, allowed": ModelOptions(shape=(("x", AUTO),), allows_cache=True),
    "properties": ModelOptions(properties=(("EXECUTION_MODE_HINT", "ACCURACY"),)),
}


def test_no_options_use_what_was_compiled_with_others_and_all_answer_as_if_nothing_was(tmp_path: Path) -> None:
    home = Home(tmp_path, picture())
    for i, options in enumerate(OPTIONS.values(), 1):
        home.options = options
        assert not home.run()[0], options
        assert len(home.kept) == i
    for options in OPTIONS.values():
        fresh = Home(tmp_path / "fresh")
        fresh.base, fresh.options = home.base, home.options = home.base, options
        with fresh.loaded() as servable:
            want, signature = servable.predict("serving_default", inputs_of(servable)), servable.signatures
        with home.loaded() as servable:
            assert servable.phases.is_imported, options
            assert servable.signatures == signature
            assert are_equal(servable.predict("serving_default", inputs_of(servable)), want)
        shutil.rmtree(fresh.cache)


@pytest.mark.parametrize("is_in_place", [False, True], ids=["fetched", "in place"])
def test_what_was_published_under_one_name_of_an_input_is_not_used_under_another(
    is_in_place: bool, tmp_path: Path
) -> None:
    """A shape is that of an input by its name, and which has which name is in a file of its own."""
    home = Home(tmp_path, adding(), is_in_place=is_in_place)
    home.options = ModelOptions(shape=(("first", of_size(1)), ("second", of_size(2))))
    mapping = home.base / "1" / "mapping_config.json"
    names = {"a": "first", "b": "second"}, {"a": "second", "b": "first"}
    mapping.write_text(json.dumps({"inputs": names[0]}))
    published(home)
    for each, is_imported in zip(names, (True, False), strict=True):
        mapping.write_text(json.dumps({"inputs": each}))
        with home.loaded() as servable:
            wanted = {name: spec.shape for name, spec in servable.signatures["serving_default"].inputs.items()}
            assert (servable.phases.is_imported, wanted) == (is_imported, {"first": (1,), "second": (2,)})


@pytest.mark.parametrize(
    "options",
    [
        ModelOptions(shape=(("x", AUTO),)),
        ModelOptions(batch_size=AUTO),
        ModelOptions(device="AUTO:CPU"),
        ModelOptions(device="HETERO:CPU"),
        ModelOptions(properties=(("CACHE_DIR", ""),)),
    ],
)
def test_with_options_that_make_it_unsafe_nothing_is_kept_or_used(options: ModelOptions, tmp_path: Path) -> None:
    home = Home(tmp_path, picture())
    kept = home.make()
    home.options = options
    for _ in range(2):
        assert not home.run()[0]
    assert home.kept == [kept]


def test_with_a_library_of_operations_nothing_is_kept_or_used(tmp_path: Path) -> None:
    home = Home(tmp_path, picture())
    kept = home.make()
    library = models.extension(tmp_path)
    for _ in range(2):
        servable = models.load_by(home.loader(extension=library), home.version)
        assert not servable.phases.is_imported
        assert servable.chore is None
        servable.close()
    assert home.kept == [kept]


@pytest.mark.parametrize("threads", THREADS)
def test_what_was_compiled_with_some_threads_is_imported_with_others(threads: str, tmp_path: Path) -> None:
    home = Home(tmp_path, models.weighty(512))
    first, second = THREADS[threads]
    is_imported, right = home.run(config=first)
    is_imported_again, answer = home.run(config=second)
    assert (is_imported, is_imported_again) == (False, True)
    assert are_equal(answer, right)
    assert len(home.kept) == 1


def test_who_imports_has_his_own_number_of_threads_and_streams(tmp_path: Path) -> None:
    home = Home(tmp_path, models.weighty())
    throughput = {"PERFORMANCE_HINT": "THROUGHPUT"}
    with home.loaded({**throughput, "INFERENCE_NUM_THREADS": "1"}) as servable:
        assert servable.concurrency == 1
    home.run(config={**throughput, "INFERENCE_NUM_THREADS": "1"})
    with home.loaded({**throughput, "INFERENCE_NUM_THREADS": "2"}) as servable:
        assert servable.phases.is_imported
        assert servable.concurrency == min(2, len(os.sched_getaffinity(0)))


# --- weights that have changed


def with_other_weights(path: Path) -> None:
    """Change all numbers of a .bin, and neither its size nor the time of its last change."""
    before = path.stat()
    path.write_bytes((np.fromfile(path, np.float32) * 2).tobytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_over_other_weights_a_file_would_answer_as_neither_model_does(tmp_path: Path) -> None:
    """Why all the others are here."""
    home = Home(tmp_path, folding(), is_in_place=True)
    x = {"x": np.ones((1, 1, 3, 3), np.float32)}
    _, before = home.run(x)
    blob = read(home.kept[0]).blob
    with_other_weights(home.bin)
    after = home.run(x)[1]
    config = {**DEFAULTS, **models.F32, "CACHE_MODE": "OPTIMIZE_SIZE", "WEIGHTS_PATH": str(home.bin)}
    request = (
        core().import_model(openvino().Tensor(np.frombuffer(blob, np.uint8)), "CPU", config).create_infer_request()
    )
    request.set_input_tensor(0, openvino().Tensor(x["x"]))
    request.start_async({}, None)
    request.wait()
    mixture = request.get_output_tensor(0).data
    assert not np.allclose(after["y"], before["y"])
    assert not np.allclose(mixture, before["y"])
    assert not np.allclose(mixture, after["y"])


def test_weights_that_change_in_place_are_answered_with_though_they_keep_size_and_time(tmp_path: Path) -> None:
    home = Home(tmp_path, folding(), is_in_place=True)
    x = {"x": np.ones((1, 1, 3, 3), np.float32)}
    home.run(x)
    assert home.run(x)[0]
    with_other_weights(home.bin)
    is_imported, answer = home.run(x)
    assert not is_imported
    np.testing.assert_array_equal(answer["y"].ravel(), [4 * (18 * k) + 6 * k for k in range(1, 5)])
    assert home.run(x)[0]


def test_a_graph_that_changes_in_place_is_answered_with(tmp_path: Path) -> None:
    home = Home(tmp_path, models.doubler(), is_in_place=True)
    home.make()
    xml = home.base / "1" / "model.xml"
    before = xml.stat()
    xml.write_text(xml.read_text().replace('type="Add"', 'type="Mod"'))
    os.utime(xml, ns=(before.st_atime_ns, before.st_mtime_ns))
    is_imported, answer = home.run({"x": np.ones((1, 2), np.float32)})
    assert not is_imported
    assert answer["y"].tolist() == [[0, 0]]


def test_of_files_that_have_only_just_changed_nothing_is_kept_as_they_may_change_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = Home(tmp_path, models.weighty(), is_in_place=True)
    loader = OpenVinoLoader(
        DiskCache(home.cache, home.budget), models.F32, uses_compiled=True, keeps_compiled=True, quiet=0.0
    )
    servable = models.load_by(loader, home.version)
    servable.predict("serving_default", inputs_of(servable))
    assert servable.chore is not None
    with caplog.at_level(logging.DEBUG, "runtime"):
        servable.chore.wait(PATIENCE)
        servable.close()
    assert home.kept == []
    assert "only just changed" in caplog.text


def test_of_files_that_change_while_the_model_runs_nothing_is_kept(tmp_path: Path) -> None:
    home = Home(tmp_path, models.weighty(), is_in_place=True)
    with home.loaded() as servable:
        with_other_weights(home.bin)
        servable.predict("serving_default", inputs_of(servable))
        assert servable.chore is not None
        servable.chore.wait(PATIENCE)
    assert home.kept == []


# --- published files


def compiling(home: Home, meanwhile: Callable[[], None]) -> CompiledModel:
    """Compile the model for all, as `decant compile` does, while something happens to its files."""
    xml = home.bin.with_suffix(".xml")
    with DiskCache(home.cache, home.budget).lease(home.version) as files:
        known = CompiledFiles(home.version, files, xml, DEFAULTS, openvino().get_version())
        origin = known.origin()
        model = compile_to_export(xml, Recipe())
        meanwhile()
        return exported(known, model, 0.0, origin)


def there_and_back(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(bytes(len(data)))
    path.write_bytes(data)


CHANGES: Mapping[str, Callable[[Home], None]] = {
    "other weights": lambda home: with_other_weights(home.bin),
    "other weights, and then the old ones": lambda home: there_and_back(home.bin),
    "no weights": lambda home: home.bin.unlink(),
    "another graph": lambda home: void(home.bin.with_suffix(".xml").write_text("<net/>")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_of_files_that_change_while_they_are_compiled_nothing_is_published(change: str, tmp_path: Path) -> None:
    home = Home(tmp_path, folding(), is_in_place=True)
    assert compiling(home, lambda: None).header.origin.weights.startswith("crc32c:")
    with pytest.raises(Unfit, match="the model's files have changed meanwhile"):
        compiling(home, lambda: CHANGES[change](home))


def published(home: Home) -> Path:
    """Put what was compiled beside the model, as `decant compile` does, and forget all else."""
    kept = read(home.make())
    weights = f"crc32c:{google_crc32c.value(home.bin.read_bytes()):08x}"
    header = kept.header._replace(origin=kept.header.origin._replace(weights=weights))
    place = home.base / "1" / "compiled" / header.name
    place.parent.mkdir()
    place.write_bytes(CompiledModel(header, kept.blob).to_bytes())
    shutil.rmtree(home.cache)
    return place


@pytest.mark.parametrize("is_in_place", [False, True], ids=["fetched", "in place"])
def test_what_is_published_beside_a_model_is_imported_at_the_first_start_and_kept(
    is_in_place: bool, tmp_path: Path
) -> None:
    home = Home(tmp_path, folding(), is_in_place=is_in_place)
    place = published(home)
    assert home.run()[0]
    assert [path.name for path in home.kept] == [place.name]
    assert home.run()[0]


@pytest.mark.parametrize("is_in_place", [False, True], ids=["fetched", "in place"])
def test_what_is_published_of_other_weights_is_passed_over(is_in_place: bool, tmp_path: Path) -> None:
    home = Home(tmp_path, folding(), is_in_place=is_in_place)
    published(home)
    with_other_weights(home.bin)
    x = {"x": np.ones((1, 1, 3, 3), np.float32)}
    is_imported, answer = home.run(x)
    assert not is_imported
    np.testing.assert_array_equal(answer["y"].ravel(), [4 * (18 * k) + 6 * k for k in range(1, 5)])


# --- whichever is quicker


def test_what_is_slower_to_import_each_time_is_compiled_again_until_that_is_slower(tmp_path: Path) -> None:
    home = Home(tmp_path, models.weighty())
    kept = home.make()
    rewritten(compile_seconds=0.0)(kept)
    assert [home.run()[0] for _ in range(SLOW_IMPORTS + 1)] == [True] * SLOW_IMPORTS + [False]
    # As if its imports had been quicker than the compiling that is to come.
    rewritten(compile_seconds=0.0, slow_imports=SLOW_IMPORTS, import_seconds=1e-9)(kept)
    assert [home.run()[0] for _ in range(2)] == [False, True]
    assert read(kept).header.compile_seconds > 0

    rewritten(slow_imports=SLOW_IMPORTS, import_seconds=100.0)(kept)
    before = kept.stat().st_mtime_ns
    assert [home.run()[0] for _ in range(2)] == [False, False]
    assert kept.stat().st_mtime_ns == before


def test_one_quick_import_is_enough(tmp_path: Path) -> None:
    home = Home(tmp_path, models.weighty())
    kept = home.make()
    rewritten(compile_seconds=100.0, slow_imports=SLOW_IMPORTS - 1)(kept)
    assert home.run()[0]
    assert read(kept).header.slow_imports == 0


# --- where nothing can be kept


def test_a_budget_without_room_for_it_is_no_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = Home(tmp_path, models.weighty())
    home.budget = home.version.size + 100
    with caplog.at_level(logging.DEBUG, "runtime"):
        assert [home.run()[0] for _ in range(2)] == [False, False]
    assert home.kept == []
    assert [record.levelname for record in caplog.records if "not keeping" in record.message] == ["DEBUG"] * 2


def test_what_is_kept_counts_and_goes_with_its_version(tmp_path: Path) -> None:
    home = Home(tmp_path, models.weighty())
    kept = home.make()
    cache = DiskCache(home.cache, home.budget)
    assert cache.usage().used == home.version.size + kept.stat().st_size
    (entry,) = cache.entries()
    assert cache.remove(entry)
    assert home.kept == []


def test_of_a_model_read_in_place_only_the_last_is_kept_and_goes_like_a_version(tmp_path: Path) -> None:
    home = Home(tmp_path, models.weighty(), is_in_place=True)
    first = home.make()
    new = home.base / "1" / "new"
    new.write_bytes(home.bin.read_bytes())
    new.replace(home.bin)
    home.run()
    (second,) = home.kept
    assert second != first
    (entry,) = DiskCache(home.cache, home.budget).entries()
    assert (entry.is_complete, entry.size) == (True, second.stat().st_size)
    assert DiskCache(home.cache, home.budget).damaged(entry) == []
    assert DiskCache(home.cache, home.budget).remove(entry)
    assert home.kept == []


SCRIPT = """
import sys
from pathlib import Path
from tests.runtime.test_compiled import Home
sys.stdin.read(1)
print(*[Home(Path(sys.argv[1])).run()[0] for _ in range(3)])
"""


def test_two_processes_at_once_keep_one_file_that_is_whole(tmp_path: Path) -> None:
    home = Home(tmp_path, models.weighty())
    argv = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    processes = [
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=clean_environment())
        for _ in range(2)
    ]
    # Each waits for its letter.
    for process in processes:
        assert process.stdin
        process.stdin.write(b"x")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0].decode().split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert [words[1:] for words in said] == [["True", "True"]] * 2
    (kept,) = home.kept
    assert isinstance(read(kept).header, Header)
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]
    until(lambda: home.run()[0])
