"""What config.json may say of a model, on real models: the answers are those of OpenVINO with the same done by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.golden import direct, real
from tests.golden.asking import Ask, assert_same, both_fronts, over_grpc, over_rest
from tests.golden.pictures import normal, page, planes
from tests.golden.serving import serving
from tests.servers.decant import Decant

LINES, PAGES = "text_recogniser", "text_detector"
LEGACY = {"CPU_THROUGHPUT_STREAMS": "1", "CPU_THREADS_NUM": "1", "CPU_BIND_THREAD": "NO"}
MAPPING = {"inputs": {"x": "picture"}, "outputs": {"fetch_name_0": "likelihood"}}
# A text line of 64 pixels' width, which is what a converted model has when nothing is said at its conversion.
FIXED = (1, 3, 48, 64)


def pixels(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(11).uniform(-1, 1, shape).astype(np.float32)


def page_of_text() -> NDArray[np.float32]:
    return normal(page("Wine", 64, 96))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decant]:
    directory = tmp_path_factory.mktemp("options")
    lines = str(direct.save_with_shapes(real.source(LINES), directory / "lines", {"x": FIXED}))
    pages = str(real.place("text_detector", directory / "pages"))
    faces = str(real.place("face", directory / "faces"))
    renamed = real.place("text_detector", directory / "renamed")
    (renamed / "1" / "mapping_config.json").write_text(json.dumps(MAPPING))
    models: dict[str, dict[str, Any]] = {
        "as_it_is": {"base_path": lines},
        "auto": {"base_path": lines, "shape": "auto"},
        "auto_by_name": {"base_path": lines, "shape": {"x": "auto"}},
        "batch_auto": {"base_path": lines, "batch_size": "auto"},
        "fixed": {"base_path": lines, "shape": "(2,3,48,96)"},
        "fixed_by_name": {"base_path": lines, "shape": {"x": [2, 3, 48, 96]}},
        "ranged": {"base_path": lines, "shape": "(-1,3,48,64:128)"},
        "batch_of_four": {"base_path": faces, "batch_size": 4},
        "batch_ranged": {"base_path": faces, "batch_size": "1:3"},
        "transposed": {"base_path": pages, "layout": "NHWC:NCHW", "shape": "(1,64,96,3)"},
        "transposed_both": {
            "base_path": pages,
            "layout": {"x": "NHWC:NCHW", "fetch_name_0": "NHWC:NCHW"},
            "plugin_config": LEGACY,
            "nireq": 2,
        },
        "mapped": {"base_path": str(renamed), "shape": {"picture": "(1,3,64,96)"}, "layout": {"picture": "NCHW"}},
        "elsewhere": {"base_path": pages, "target_device": "AUTO:CPU"},
    }
    with serving(directory, models) as running:
        yield running


ACCEPTED = [
    ("as_it_is", FIXED),
    ("auto", FIXED),
    ("auto", (2, 3, 48, 96)),
    ("auto_by_name", (3, 3, 48, 32)),
    ("batch_auto", (3, *FIXED[1:])),
    ("fixed", (2, 3, 48, 96)),
    ("fixed_by_name", (2, 3, 48, 96)),
    ("ranged", (2, 3, 48, 128)),
]


@both_fronts
@pytest.mark.parametrize(("name", "shape"), ACCEPTED)
def test_a_model_takes_what_its_shape_says(server: Decant, name: str, shape: tuple[int, ...], ask: Ask) -> None:
    inputs = {"x": pixels(*shape)}
    assert_same(ask(server, name, inputs), direct.infer(real.source(LINES), inputs))


@both_fronts
@pytest.mark.parametrize(("name", "size"), [("batch_of_four", 4), ("batch_ranged", 1), ("batch_ranged", 3)])
def test_a_model_takes_batches_as_its_batch_size_says(server: Decant, name: str, size: int, ask: Ask) -> None:
    inputs = {"input": pixels(size, 128, 128, 3)}
    assert_same(ask(server, name, inputs), direct.infer(real.source("face"), inputs))


REFUSED = [
    ("as_it_is", (2, *FIXED[1:]), "Invalid input batch size - Expected: 1; Actual: 2; input name: x"),
    ("as_it_is", (1, 3, 48, 96), "Invalid input shape - Expected: (1,3,48,64); Actual: (1,3,48,96); input name: x"),
    ("as_it_is", (3, 48, 64), "Invalid number of shape dimensions - Expected: (1,3,48,64); Actual: (3,48,64)"),
    ("fixed", FIXED, "Invalid input batch size - Expected: 2; Actual: 1; input name: x"),
    ("ranged", (1, 3, 48, 256), "Invalid input shape - Expected: (-1,3,48,[64~128]); Actual: (1,3,48,256)"),
    ("auto", (3, 48, 64), "Invalid number of shape dimensions"),
    ("auto", (1, 4, 48, 64), "Invalid input shape"),
    ("batch_auto", (1, 3, 48, 96), "Invalid input shape"),
]


@pytest.mark.parametrize(("name", "shape", "text"), REFUSED)
def test_what_does_not_fit_is_refused_in_ovms_words(
    server: Decant, name: str, shape: tuple[int, ...], text: str
) -> None:
    inputs = {"x": pixels(*shape)}
    reply = server.post(f"/v1/models/{name}:predict", {"inputs": inputs["x"].tolist()})
    assert reply.status == 400
    assert text in reply.body["error"]
    with pytest.raises(grpc.RpcError) as refusal:
        over_grpc(server, name, inputs)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert text in str(refusal.value.details())


def test_a_shape_that_the_model_cannot_take_is_a_failed_precondition(server: Decant) -> None:
    inputs = {"x": pixels(1, 3, 48, 4)}
    text = "Model could not be reshaped with requested shape"
    reply = server.post("/v1/models/auto:predict", {"inputs": inputs["x"].tolist()})
    assert reply.status == 412
    assert text in reply.body["error"]
    with pytest.raises(grpc.RpcError) as refusal:
        over_grpc(server, "auto", inputs)
    assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    fitting = {"x": pixels(*FIXED)}
    assert_same(over_grpc(server, "auto", fitting), direct.infer(real.source(LINES), fitting))


@both_fronts
def test_a_layout_transposes_what_clients_send_and_get(server: Decant, ask: Ask) -> None:
    images = page_of_text()
    want = direct.infer(real.source(PAGES), {"x": planes(images)})
    assert_same(ask(server, "transposed", {"x": images}), want)
    likelihood = want["fetch_name_0"].transpose(0, 2, 3, 1)
    assert_same(ask(server, "transposed_both", {"x": images}), {"fetch_name_0": likelihood})


@both_fronts
def test_a_model_has_the_names_that_its_mapping_gives_it(server: Decant, ask: Ask) -> None:
    images = planes(page_of_text())
    want = direct.infer(real.source(PAGES), {"x": images})
    assert_same(ask(server, "mapped", {"picture": images}), {"likelihood": want["fetch_name_0"]})


@both_fronts
def test_a_device_may_be_one_that_chooses_others(server: Decant, ask: Ask) -> None:
    inputs = {"x": planes(page_of_text())}
    assert_same(ask(server, "elsewhere", inputs), direct.infer(real.source(PAGES), inputs))


def test_what_was_configured_is_what_metadata_tells(server: Decant) -> None:
    shapes = {name: inputs_told(server, name) for name in ("auto", "fixed", "ranged", "transposed", "mapped")}
    assert shapes == {
        "auto": {"x": [1, 3, 48, 64]},
        "fixed": {"x": [2, 3, 48, 96]},
        "ranged": {"x": [-1, 3, 48, -1]},
        "transposed": {"x": [1, 64, 96, 3]},
        "mapped": {"picture": [1, 3, 64, 96]},
    }


def inputs_told(server: Decant, name: str) -> dict[str, list[int]]:
    body = server.get(f"/v1/models/{name}/metadata").body
    told = body["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]
    return {name: [int(dim["size"]) for dim in of["tensor_shape"]["dim"]] for name, of in told.items()}


def test_a_batch_size_of_auto_shows_the_batch_that_is_in_the_file(server: Decant) -> None:
    assert inputs_told(server, "batch_auto") == {"x": list(FIXED)}
    inputs = {"x": pixels(5, *FIXED[1:])}
    assert_same(over_rest(server, "batch_auto", inputs), direct.infer(real.source(LINES), inputs))
    assert inputs_told(server, "batch_auto") == {"x": list(FIXED)}
