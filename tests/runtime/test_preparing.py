"""What a configuration makes of a model: shapes, batch sizes, layouts, steps on images, names, devices, properties."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model_cache.errors import LoadFailed
from runtime.engine import OpenVinoLoader
from runtime.errors import CannotReshape, InvalidRequest
from runtime.openvino_core import openvino
from runtime.options import ANY, AUTO, ImageSteps, Layout, ModelOptions, Shape, Stateful
from runtime.signature import DEFAULT_SIGNATURE, Signature
from runtime.status import Code, code_of, http_status_of
from tests.runtime import models

# After the tests' models, which keep telemetry out.
from openvino import opset13 as ops  # isort: skip

F32 = np.dtype(np.float32)


def picture(shape: Any = (1, 3, 4, 4), layout: str = "") -> Any:
    """``y = x + (0, 10, 20) by channel``: an NCHW model that says so only if a layout is given."""
    x = ops.parameter(openvino().PartialShape(list(shape)), openvino().Type.f32, name="x")
    x.output(0).get_tensor().set_names({"x"})
    if layout:
        x.set_layout(openvino().Layout(layout))
    y = ops.add(x, np.array([0, 10, 20], np.float32).reshape(1, 3, 1, 1))
    y.output(0).get_tensor().set_names({"y"})
    return openvino().Model([ops.result(y)], [x], "picture")


def predict(servable: Any, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return dict(servable.predict(DEFAULT_SIGNATURE, inputs))


def signature(servable: Any) -> Signature:
    found: Signature = servable.signatures[DEFAULT_SIGNATURE]
    return found


def fails(model: Any, base: Path, options: ModelOptions, mapping: object = None, **config: str) -> str:
    directory = models.save(model, base)
    if mapping is not None:
        (directory / "mapping_config.json").write_text(json.dumps(mapping))
    with pytest.raises(LoadFailed) as caught:
        models.loader(models.files_at(base), **config).load(models.version_at(base, options=options))
    text = str(caught.value)
    assert "model/1" in text
    assert str(base) not in text
    return text


def shape(*sizes: int | tuple[int, int]) -> tuple[tuple[int, int], ...]:
    return tuple((size, size) if isinstance(size, int) else size for size in sizes)


OPEN = (0, -1)


@pytest.mark.parametrize("name", [ANY, "x"])
def test_a_fixed_shape_is_what_clients_see_and_must_send(name: str, tmp_path: Path) -> None:
    models.save(picture(), tmp_path)
    options = ModelOptions(shape=((name, shape(2, 3, 1, 5)),))
    with models.configured(tmp_path, options) as servable:
        assert signature(servable).inputs["x"].shape == (2, 3, 1, 5)
        assert signature(servable).outputs["y"].shape == (2, 3, 1, 5)
        y = predict(servable, x=np.zeros((2, 3, 1, 5), np.float32))["y"]
        assert y[1, :, 0, 4].tolist() == [0, 10, 20]
        with pytest.raises(InvalidRequest) as caught:
            predict(servable, x=np.zeros((1, 3, 4, 4), np.float32))
    assert str(caught.value) == (
        "input 'x' has shape (1, 3, 4, 4); want (2, 3, 1, 5): Invalid input batch size - Expected: 2; Actual: 1; "
        "input name: x"
    )


def test_a_range_is_compiled_once_and_checked_before_the_engine_is_asked(tmp_path: Path) -> None:
    models.save(picture(), tmp_path)
    options = ModelOptions(shape=((ANY, shape(1, 3, (2, 6), OPEN)),))
    with models.configured(tmp_path, options) as servable:
        spec = signature(servable).inputs["x"]
        assert spec.shape == (1, 3, -1, -1)
        assert spec.bounds == ((1, 1), (3, 3), (2, 6), (0, -1))
        for height in (2, 6):
            assert predict(servable, x=np.zeros((1, 3, height, 9), np.float32))["y"].shape == (1, 3, height, 9)
        with pytest.raises(InvalidRequest) as caught:
            predict(servable, x=np.zeros((1, 3, 7, 9), np.float32))
    assert str(caught.value) == (
        "input 'x' has shape (1, 3, 7, 9); want (1, 3, 2:6, -1): Invalid input shape - "
        "Expected: (1,3,[2~6],-1); Actual: (1,3,7,9); input name: x"
    )


def test_inputs_have_shapes_of_their_own_and_keep_theirs_if_nothing_is_said(tmp_path: Path) -> None:
    models.save(models.crossing(), tmp_path)
    with models.configured(tmp_path, ModelOptions(shape=(("left", shape(4, 3)),))) as servable:
        assert [spec.shape for spec in signature(servable).inputs.values()] == [(4, 3), (2, -1)]


@pytest.mark.parametrize(
    ("batch_size", "wanted", "bounds"),
    [
        ((8, 8), (8, 3, 4, 4), None),
        (OPEN, (-1, 3, 4, 4), None),
        ((1, 4), (-1, 3, 4, 4), ((1, 4), (3, 3), (4, 4), (4, 4))),
        (AUTO, (-1, 3, 4, 4), None),
    ],
)
def test_a_batch_size(batch_size: Any, wanted: tuple[int, ...], bounds: Any, tmp_path: Path) -> None:
    models.save(picture(), tmp_path)
    with models.configured(tmp_path, ModelOptions(batch_size=batch_size)) as servable:
        spec = signature(servable).inputs["x"]
        assert (spec.shape, spec.bounds) == (wanted, bounds)
        size = 8 if batch_size == (8, 8) else 3
        assert predict(servable, x=np.zeros((size, 3, 4, 4), np.float32))["y"].shape[0] == size


def test_the_layout_says_which_dimension_a_batch_size_is_of(tmp_path: Path) -> None:
    models.save(models.doubler(shape=(4, 1)), tmp_path)
    options = ModelOptions(batch_size=(3, 3), layout=((ANY, Layout("CN")),))
    with models.configured(tmp_path, options) as servable:
        spec = signature(servable).inputs["x"]
        assert (spec.shape, spec.layout) == ((4, 3), "CN")
        with pytest.raises(InvalidRequest, match="Invalid input batch size - Expected: 3; Actual: 2; input name: x"):
            predict(servable, x=np.zeros((4, 2), np.float32))


def test_an_input_whose_layout_has_no_batch_keeps_its_shape_beside_one_that_has(tmp_path: Path) -> None:
    models.save(models.crossing(), tmp_path)
    options = ModelOptions(batch_size=(5, 5), layout=(("right", Layout("HW")),))
    with models.configured(tmp_path, options) as servable:
        assert [spec.shape for spec in signature(servable).inputs.values()] == [(5, 3), (2, -1)]


def test_a_layout_with_another_behind_it_transposes_what_comes_in_and_what_goes_out(tmp_path: Path) -> None:
    models.save(picture((1, 3, 4, 5)), tmp_path)
    both = Layout("NHWC", "NCHW")
    x = np.arange(60, dtype=np.float32).reshape(1, 4, 5, 3)
    with models.configured(tmp_path, ModelOptions(layout=(("x", both), ("y", both)))) as servable:
        spec, answer = signature(servable).inputs["x"], signature(servable).outputs["y"]
        assert (spec.shape, spec.layout) == ((1, 4, 5, 3), "NHWC")
        assert (answer.shape, answer.layout) == ((1, 4, 5, 3), "NHWC")
        np.testing.assert_array_equal(predict(servable, x=x)["y"], x + np.array([0, 10, 20]))


def test_a_shape_is_that_of_what_clients_send(tmp_path: Path) -> None:
    models.save(picture(), tmp_path)
    options = ModelOptions(shape=((ANY, shape(1, 6, 5, 3)),), layout=((ANY, Layout("NHWC", "NCHW")),))
    with models.configured(tmp_path, options) as servable:
        assert signature(servable).inputs["x"].shape == (1, 6, 5, 3)
        assert predict(servable, x=np.zeros((1, 6, 5, 3), np.float32))["y"].shape == (1, 3, 6, 5)


def test_one_layout_alone_transposes_nothing_whatever_the_model_says_of_itself(tmp_path: Path) -> None:
    models.save(picture(layout="NCHW"), tmp_path)
    with models.configured(tmp_path, ModelOptions(layout=((ANY, Layout("NHWC")),))) as servable:
        assert signature(servable).inputs["x"].layout == "NHWC"
        assert predict(servable, x=np.zeros((1, 3, 4, 4), np.float32))["y"][0, :, 0, 0].tolist() == [0, 10, 20]


@pytest.mark.parametrize(("layout", "shown"), [("NCHW", "NCHW"), ("N...", "N..."), ("[words,...]", ""), ("", "")])
def test_a_layout_that_the_model_has_is_told(layout: str, shown: str, tmp_path: Path) -> None:
    with models.serving(picture(layout=layout), tmp_path) as servable:
        assert signature(servable).inputs["x"].layout == shown


def test_mean_scale_colours_and_precision_are_compiled_in(tmp_path: Path) -> None:
    models.save(picture(), tmp_path)
    steps = ImageSteps(
        mean=(1.0, 2.0, 3.0), scale=(2.0, 4.0, 8.0), color_format=("RGB", "BGR"), precision=("u8", "f32")
    )
    options = ModelOptions(layout=((ANY, Layout("NHWC", "NCHW")),), steps=((ANY, steps),))
    x = np.random.default_rng(0).integers(0, 255, (1, 4, 4, 3), np.uint8)
    with models.configured(tmp_path, options) as servable:
        assert signature(servable).inputs["x"].dtype == np.uint8
        y = predict(servable, x=x)["y"]
    want = (x[..., ::-1].astype(np.float32) - [1, 2, 3]) / [2, 4, 8] + [0, 10, 20]
    np.testing.assert_allclose(y, want.transpose(0, 3, 1, 2), rtol=1e-6)


@pytest.mark.parametrize(
    ("color_format", "planes"),
    [("NV12_2", {"x/y": (1, 4, 4, 1), "x/uv": (1, 2, 2, 2)}), ("I420_3", dict.fromkeys(("x/y", "x/u", "x/v")))],
)
def test_planes_of_colors_are_named_after_the_input(
    color_format: str, planes: dict[str, tuple[int, ...] | None], tmp_path: Path
) -> None:
    models.save(picture(), tmp_path)
    steps = ImageSteps(color_format=(color_format, "BGR"), precision=("u8", "f32"))
    options = ModelOptions(layout=((ANY, Layout("NHWC", "NCHW")),), steps=((ANY, steps),))
    for _ in range(2):
        with models.configured(tmp_path, options) as servable:
            assert {name: planes[name] and spec.shape for name, spec in signature(servable).inputs.items()} == planes


def test_one_mean_and_one_scale_are_for_all_values_and_need_no_layout(tmp_path: Path) -> None:
    models.save(models.doubler(), tmp_path)
    options = ModelOptions(steps=(("x", ImageSteps(mean=(1.0,), scale=(4.0,))),))
    with models.configured(tmp_path, options) as servable:
        assert predict(servable, x=np.array([[1, 9]], np.float32))["y"].tolist() == [[0, 4]]


MAPPING = {"inputs": {"x": "image"}, "outputs": {"y": "score"}}


def test_clients_use_the_names_of_the_mapping(tmp_path: Path) -> None:
    (models.save(picture(), tmp_path) / "mapping_config.json").write_text(json.dumps(MAPPING))
    options = ModelOptions(shape=(("image", shape(2, 3, 4, 4)),), layout=(("score", Layout("NHWC", "NCHW")),))
    with models.configured(tmp_path, options) as servable:
        assert (list(signature(servable).inputs), list(signature(servable).outputs)) == (["image"], ["score"])
        assert predict(servable, image=np.zeros((2, 3, 4, 4), np.float32))["score"].shape == (2, 4, 4, 3)
        with pytest.raises(InvalidRequest, match="Inputs expected to be in the request"):
            predict(servable, x=np.zeros((2, 3, 4, 4), np.float32))


@pytest.mark.parametrize(
    ("model", "options", "mapping", "text"),
    [
        (
            models.crossing,
            ModelOptions(shape=((ANY, shape(2, 3)),)),
            None,
            "Anonymous fixed shape is invalid for models with multiple inputs: want it by name, of left, right",
        ),
        (
            models.crossing,
            ModelOptions(layout=((ANY, Layout("NC")),)),
            None,
            "Anonymous fixed layout is invalid for models with multiple inputs",
        ),
        (
            picture,
            ModelOptions(shape=(("z", shape(1, 3, 4, 4)),)),
            None,
            "Shape from config not found in model: z is given; want one of x",
        ),
        (
            picture,
            ModelOptions(batch_size=(4, 4), layout=((ANY, Layout("...N")),)),
            None,
            "Invalid batch dimension in shape: want an input whose layout says which is N; have 'x' ...N",
        ),
        (picture, ModelOptions(shape=(("z", AUTO),)), None, "Shape from config not found in model"),
        (
            picture,
            ModelOptions(layout=(("z", Layout("NCHW")),)),
            None,
            "Layout from config not found in model: z is given; want one of y, x",
        ),
        (
            picture,
            ModelOptions(shape=(("x", shape(1, 3, 4, 4)),)),
            MAPPING,
            "Shape from config has real name. Use mapped name instead: x is given; want one of image",
        ),
        (
            picture,
            ModelOptions(layout=(("y", Layout("NCHW")),)),
            MAPPING,
            "Layout from config has real name. Use mapped name instead",
        ),
        (
            picture,
            ModelOptions(layout=((ANY, Layout("NHW")),)),
            None,
            "Layout incompatible with given shape: NHW is given for 'x', which has 4 dimensions: [1,3,4,4]",
        ),
        (
            picture,
            ModelOptions(layout=((ANY, Layout("NHWC", "N...CHWD")),)),
            None,
            "Layout incompatible with given shape: N...CHWD",
        ),
        (picture, ModelOptions(steps=((ANY, ImageSteps(mean=(1.0, 2.0))),)), None, "mean, scale, color_format"),
        (
            picture,
            ModelOptions(shape=((ANY, shape(1, 5, 4, 4)),)),
            None,
            "Model could not be reshaped with requested shape: 'x' [1,5,4,4]: ",
        ),
        (
            picture,
            ModelOptions(properties=(("FOO", "1"),)),
            None,
            "Plugin config contains unsupported keys: FOO; want CPU's",
        ),
        (
            picture,
            ModelOptions(device="AUTO:CPU", properties=(("FOO", "1"),)),
            None,
            "Plugin config contains unsupported keys: FOO; want AUTO:CPU's",
        ),
        (
            picture,
            ModelOptions(device="MYRIAD"),
            None,
            'Cannot compile model into target device MYRIAD: Device with "MYRIAD" name is not registered',
        ),
        (picture, ModelOptions(device="HETERO:MYRIAD,CPU"), None, "want what is here, which is CPU"),
        (picture, ModelOptions(device="GPU"), None, "Cannot compile model into target device GPU: "),
        (
            picture,
            ModelOptions(properties=(("NUM_STREAMS", "many"),)),
            None,
            "cannot load model/1 from model.xml: Could not read number of streams",
        ),
    ],
)
def test_what_does_not_fit_the_model_fails_its_load_with_model_servers_text(
    model: Any, options: ModelOptions, mapping: object, text: str, tmp_path: Path
) -> None:
    assert text in fails(model(), tmp_path, options, mapping)


@pytest.mark.parametrize(
    "device", ["AUTO", "AUTO:CPU", "MULTI:CPU", "HETERO:CPU", "HETERO:CPU,CPU", "AUTO:-GPU", "MULTI:CPU, -GPU"]
)
def test_devices_made_of_others_answer_like_the_cpu(device: str, tmp_path: Path) -> None:
    models.save(models.doubler(), tmp_path)
    options = ModelOptions(device=device, properties=(("INFERENCE_NUM_THREADS", "1"),))
    with models.configured(tmp_path, options) as servable:
        assert predict(servable, x=np.array([[1, 2]], np.float32))["y"].tolist() == [[2, 4]]


def test_a_models_own_properties_and_requests_come_before_those_of_all(tmp_path: Path) -> None:
    models.save(models.doubler(), tmp_path)
    own = ModelOptions(properties=(("PERFORMANCE_HINT", "THROUGHPUT"), ("NUM_STREAMS", "2")), requests=5)
    with models.configured(tmp_path, own, NUM_STREAMS="1") as servable:
        assert servable.concurrency == 5
        assert servable.usage.streams == 2
    with models.configured(tmp_path, ModelOptions(), NUM_STREAMS="1") as servable:
        assert (servable.concurrency, servable.usage.streams) == (1, 1)


def test_low_latency_makes_a_state_of_a_loop(tmp_path: Path) -> None:
    models.save(models.looper(), tmp_path)
    with models.configured(tmp_path, ModelOptions(stateful=Stateful(has_low_latency=True))) as servable:
        assert len(servable.variables) == 1
    with models.configured(tmp_path, ModelOptions(stateful=Stateful())) as servable:
        assert len(servable.variables) == 0


def test_auto_takes_any_shape_of_the_models_rank(tmp_path: Path) -> None:
    models.save(picture(), tmp_path)
    with models.configured(tmp_path, ModelOptions(shape=((ANY, AUTO),))) as servable:
        assert signature(servable).inputs["x"].shape == (-1, -1, -1, -1)
        for given in ((1, 3, 4, 4), (2, 3, 9, 1), (1, 3, 4, 4)):
            assert predict(servable, x=np.zeros(given, np.float32))["y"].shape == given
        with pytest.raises(InvalidRequest, match=r"Invalid number of shape dimensions - Expected: \(-1,-1,-1,-1\)"):
            predict(servable, x=np.zeros((1, 3, 4), np.float32))


def test_a_shape_that_an_auto_model_cannot_take_is_a_precondition_as_in_model_server(tmp_path: Path) -> None:
    models.save(picture(), tmp_path)
    with models.configured(tmp_path, ModelOptions(shape=((ANY, AUTO),))) as servable:
        with pytest.raises(CannotReshape) as caught:
            predict(servable, x=np.zeros((1, 5, 4, 4), np.float32))
        assert predict(servable, x=np.zeros((1, 3, 4, 4), np.float32))["y"].shape == (1, 3, 4, 4)
    assert str(caught.value).startswith("Model could not be reshaped with requested shape. model/1 cannot run these")
    assert (http_status_of(caught.value), code_of(caught.value)) == (412, Code.FAILED_PRECONDITION)


def test_auto_keeps_a_size_if_nothing_else_goes_through_the_graph(tmp_path: Path) -> None:
    models.save(models.weighty(8), tmp_path)
    with models.configured(tmp_path, ModelOptions(shape=((ANY, AUTO),))) as servable:
        assert signature(servable).inputs["x"].shape == (-1, 8)
        assert predict(servable, x=np.zeros((3, 8), np.float32))["y"].shape == (3, 8)
        with pytest.raises(InvalidRequest, match=r"Invalid input shape - Expected: \(-1,8\); Actual: \(3,7\)"):
            predict(servable, x=np.zeros((3, 7), np.float32))


@pytest.mark.parametrize("wanted", [AUTO, ((0, -1), (0, -1)), ((1, 4), (7, 9))], ids=["auto", "open", "ranges"])
def test_what_weights_are_multiplied_with_is_checked_before_the_engine_which_would_not(
    wanted: Shape | str, tmp_path: Path
) -> None:
    # It would read beyond seven numbers.
    models.save(models.weighty(8), tmp_path)
    with models.configured(tmp_path, ModelOptions(shape=(("x", wanted),))) as servable:
        assert predict(servable, x=np.zeros((2, 8), np.float32))["y"].shape == (2, 8)
        with pytest.raises(InvalidRequest, match=r"shape \(2, 7\); want \(.*8\)"):
            predict(servable, x=np.zeros((2, 7), np.float32))


@pytest.mark.parametrize("inputs", [(AUTO,), (AUTO, AUTO)], ids=["one", "both"])
def test_auto_takes_a_size_that_only_another_input_makes_fit(inputs: tuple[str, ...], tmp_path: Path) -> None:
    models.save(models.spreader(), tmp_path)
    options = ModelOptions(shape=tuple(zip(("left", "right"), inputs, strict=False)))
    right = np.arange(4, dtype=np.float32)[None]
    with models.configured(tmp_path, options) as servable:
        for size in (1, 4):
            left = np.ones((1, size), np.float32)
            assert predict(servable, left=left, right=right)["y"].tolist() == [[1, 2, 3, 4]]
        with pytest.raises(CannotReshape):
            predict(servable, left=np.ones((1, 3), np.float32), right=right)


@pytest.mark.parametrize("given", [(1, 1), (1, 4), (3, 4)])
def test_auto_takes_a_size_that_only_a_constant_makes_fit(given: tuple[int, int], tmp_path: Path) -> None:
    models.save(models.shifter(), tmp_path)
    with models.configured(tmp_path, ModelOptions(shape=((ANY, AUTO),))) as servable:
        assert predict(servable, x=np.ones(given, np.float32))["y"].tolist() == [[1, 2, 3, 4]] * given[0]


def test_auto_may_be_of_some_inputs(tmp_path: Path) -> None:
    models.save(models.crossing(), tmp_path)
    options = ModelOptions(shape=(("left", shape(2, 3)), ("right", AUTO)))
    with models.configured(tmp_path, options) as servable:
        assert [spec.shape for spec in signature(servable).inputs.values()] == [(2, 3), (-1, -1)]
        y = predict(servable, left=np.ones((2, 3), np.float32), right=np.ones((5, 4), np.int32))
    assert y["doubled"].shape == (5, 4)


def test_a_library_of_operations_is_loaded(tmp_path: Path) -> None:
    models.save(models.doubler(), tmp_path)
    loader = OpenVinoLoader(models.files_at(tmp_path), models.F32, extension=models.extension(tmp_path))
    servable = loader.load(models.version_at(tmp_path))
    assert predict(servable, x=np.array([[1, 2]], np.float32))["y"].tolist() == [[2, 4]]
    servable.close()


@pytest.mark.parametrize(("content", "text"), [(b"", "file too short"), (None, "No such file")])
def test_a_library_of_operations_that_is_none_fails_loads_with_the_reason(
    content: bytes | None, text: str, tmp_path: Path
) -> None:
    models.save(models.doubler(), tmp_path)
    library = tmp_path / "library.so"
    if content is not None:
        library.write_bytes(content)
    loader = OpenVinoLoader(models.files_at(tmp_path), extension=str(library))
    with pytest.raises(LoadFailed, match=rf"cpu_extension .*library\.so: Cannot add extension\. .*{text}"):
        loader.load(models.version_at(tmp_path))
