"""What a configuration changes of a model before it is compiled: layouts, steps on images, shapes, state.

In OpenVINO Model Server's order: a shape is that of what clients send, so it is given to what layouts have made of the
model. Its texts (``src/status.cpp``) are the beginnings of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from runtime.compiler import Sizes, Unsuited
from runtime.openvino_core import core, from_package, in_package, openvino, reason
from runtime.options import ANY, AUTO, ImageSteps, Layout, ModelOptions, Shape
from runtime.ports import Names, layout_of, public_name
from runtime.signature import ANY_SIZE, DYNAMIC, Range, Signature, batch_axis

T = TypeVar("T")

_COLOR_FORMATS = {
    "NV12": "NV12_SINGLE_PLANE",
    "NV12_2": "NV12_TWO_PLANES",
    "I420": "I420_SINGLE_PLANE",
    "I420_3": "I420_THREE_PLANES",
}
"""OpenVINO's names of them, where they differ from Model Server's."""
_PLANES = {"NV12_2": ["y", "uv"], "I420_3": ["y", "u", "v"]}
"""What the inputs of each are called after the model's: x/y."""

_SIZES = 100
"""Of a model's constants that are tried for an input, the smallest."""


class _Tensor(NamedTuple):
    """One of a model's inputs or outputs."""

    number: int
    own: frozenset[str]
    """What it is called in the model."""
    shape: Any
    """OpenVINO's PartialShape."""
    layout: str


def prepare(path: Path, options: ModelOptions, names: Names, sizes: Sizes | None = None) -> Any:
    """Read a model and make it what the options say; return OpenVINO's Model.

    Args:
        sizes: what inputs that take any shape are to have, their own if they are not in it. None for any at once.

    Raises:
        Unsuited: the options do not fit the model.
        RuntimeError: OpenVINO cannot read it.
    """
    model = core().read_model(path)
    if options.layout or options.steps:
        model = _preprocessed(model, options, names)
    if options.is_reshaped:
        _reshape(model, options, names, sizes)
    if options.stateful and options.stateful.has_low_latency:
        _unroll(model)
    return model


def opened(signature: Signature, options: ModelOptions) -> Signature:
    """Return the signature of a model in its own shapes, with the sizes open that requests are to choose."""
    inputs = dict(signature.inputs)
    wanted = dict(options.shape)
    for name, spec in inputs.items():
        if spec.shape is None:
            continue
        if AUTO in (wanted.get(name), wanted.get(ANY)):
            inputs[name] = spec._replace(shape=(DYNAMIC,) * len(spec.shape), bounds=None, stored_shape=spec.shape)
        elif not wanted and options.batch_size == AUTO:
            batch = batch_axis(spec.layout)
            sizes = [DYNAMIC if axis == batch else size for axis, size in enumerate(spec.shape)]
            inputs[name] = spec._replace(shape=tuple(sizes), stored_shape=spec.shape)
    outputs = {
        name: spec._replace(shape=None if spec.shape is None else (DYNAMIC,) * len(spec.shape), stored_shape=spec.shape)
        for name, spec in signature.outputs.items()
    }
    return signature._replace(inputs=inputs, outputs=outputs)


def why_not(
    model: Any, shapes: Iterable[tuple[int, ...]], states: Mapping[str, tuple[int, ...]], directory: Path
) -> str:
    """Return why OpenVINO's Model cannot take inputs of these shapes; nothing if it can, for all that shapes tell.

    Args:
        states: shapes of those that it begins with, by variable, if they are set.
        directory: the model's, which is not told.
    """
    shapes = [*shapes, *states.values()]
    try:
        model = _with_states_as_inputs(model, states) if states else model
        model.reshape({i: _partial_shape((size, size) for size in shape) for i, shape in enumerate(shapes)}, {})
    except RuntimeError as exc:
        return reason(exc, directory)
    return ""


def _with_states_as_inputs(model: Any, states: Mapping[str, tuple[int, ...]]) -> Any:
    made = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() == "ReadValue":
            name = node.get_attributes()["variable_id"]
            shape = _partial_shape((size, size) for size in states[name])
            made[name] = openvino().op.Parameter(node.get_output_element_type(0), shape)
            for target in node.output(0).get_target_inputs():
                target.replace_source_output(made[name].output(0))
    return openvino().Model(
        model.get_results(), [*model.get_parameters(), *(made[name] for name in states)], "stateless"
    )


def with_stored_shapes(signature: Signature, stored: Signature) -> Signature:
    """Return a signature, of a model that takes any shape, that knows those in the model's file."""
    inputs, outputs = (
        {name: spec._replace(stored_shape=own[name].shape) for name, spec in specs.items()}
        for specs, own in ((signature.inputs, stored.inputs), (signature.outputs, stored.outputs))
    )
    return signature._replace(inputs=inputs, outputs=outputs)


def _unroll(model: Any) -> None:
    """Apply LowLatency2, which makes states of what loops of one step hand on to themselves."""
    names = [port.names for port in (*model.inputs, *model.outputs)]
    passes = openvino().passes.Manager()
    passes.register_pass(openvino().passes.LowLatency2())
    passes.run_passes(in_package(model))
    # It leaves the names of a loop's own tensors beside those of the model's.
    for port, own in zip((*model.inputs, *model.outputs), names, strict=True):
        port.get_tensor().set_names(own)


def _preprocessed(model: Any, options: ModelOptions, names: Names) -> Any:
    inputs, outputs = _tensors(model.inputs, names.inputs), _tensors(model.outputs, names.outputs)
    layouts = _by_tensor("layout", options.layout, inputs, outputs)
    steps = dict(options.steps)
    # For all inputs, if they have no name.
    steps = {**dict.fromkeys(inputs, steps.pop(ANY)), **steps} if ANY in steps else steps
    steps = _by_tensor("preprocessing", steps.items(), inputs)
    processor = openvino().preprocess.PrePostProcessor(in_package(model))
    try:
        for name, tensor in inputs.items():
            if name in layouts:
                _set_layout(processor.input(tensor.number), name, tensor, layouts[name])
            if name in steps:
                _add_steps(processor.input(tensor.number), steps[name])
        for name, tensor in outputs.items():
            if name in layouts:
                _set_layout(processor.output(tensor.number), name, tensor, layouts[name])
        return from_package(processor.build())
    # OpenVINO's only error class.
    except RuntimeError as exc:
        raise Unsuited(f"layout, mean, scale, color_format or precision does not fit: {reason(exc)}") from exc


def _set_layout(info: Any, name: str, tensor: _Tensor, layout: Layout) -> None:
    rank = tensor.shape.rank
    for text in (layout.tensor, layout.model):
        letters, is_open = len(text.replace("...", "")), "..." in text
        if text and rank.is_static and not (letters == rank.get_length() or (is_open and letters < rank.get_length())):
            raise Unsuited(
                f"Layout incompatible with given shape: {text} is given for '{name}', which has {rank.get_length()} "
                f"dimensions: {tensor.shape}"
            )
    # One alone says what the dimensions are, and transposes nothing.
    info.model().set_layout(openvino().Layout(layout.model or layout.tensor))
    info.tensor().set_layout(openvino().Layout(layout.tensor))


def _add_steps(info: Any, steps: ImageSteps) -> None:
    to_do, types = info.preprocess(), openvino().Type
    # In the order of what clients send becoming what the model wants: means are of its channels, and no integers.
    if steps.color_format:
        given, wanted = map(_color_format, steps.color_format)
        info.tensor().set_color_format(given, _PLANES.get(steps.color_format[0], []))
        to_do.convert_color(wanted)
    if steps.precision:
        given, wanted = (getattr(types, name) for name in steps.precision)
        info.tensor().set_element_type(given)
        to_do.convert_element_type(wanted)
    if steps.mean:
        to_do.mean(_values(steps.mean))
    if steps.scale:
        to_do.scale(_values(steps.scale))


def _color_format(name: str) -> Any:
    return getattr(openvino().preprocess.ColorFormat, _COLOR_FORMATS.get(name, name))


def _values(values: tuple[float, ...]) -> float | list[float]:
    return values[0] if len(values) == 1 else list(values)


def _reshape(model: Any, options: ModelOptions, names: Names, sizes: Sizes | None) -> None:
    inputs = _tensors(model.inputs, names.inputs)
    shapes: dict[str, Shape | str]
    if options.shape == ((ANY, AUTO),):
        shapes = dict.fromkeys(inputs, AUTO)
    else:
        shapes = _by_tensor("shape", options.shape, inputs)
    batch_size = options.batch_size
    wanted: dict[str, Any] = {}
    for name, tensor in inputs.items():
        if sizes is not None and (shapes.get(name) == AUTO or batch_size == AUTO):
            if name in sizes:
                wanted[name] = _partial_shape((size, size) for size in sizes[name])
        elif name in shapes:
            wanted[name] = _with_shape(tensor, shapes[name])
        elif batch_size is not None:
            wanted[name] = _with_batch(tensor, ANY_SIZE if isinstance(batch_size, str) else batch_size)
    if batch_size is not None and not any(_has_batch(tensor) for tensor in inputs.values()):
        layouts = ", ".join(f"'{name}' {tensor.layout or tensor.shape}" for name, tensor in inputs.items())
        raise Unsuited(f"Invalid batch dimension in shape: want an input whose layout says which is N; have {layouts}")
    try:
        model.reshape({inputs[name].number: shape for name, shape in wanted.items()}, {})
        if sizes is None:
            _keep_fixed(model, [inputs[name] for name in wanted], _sizes(inputs))
    except RuntimeError as exc:
        given = ", ".join(f"'{name}' {shape}" for name, shape in wanted.items())
        raise Unsuited(f"Model could not be reshaped with requested shape: {given}: {reason(exc)}") from exc


def _keep_fixed(model: Any, tensors: list[_Tensor], sizes: set[int]) -> None:
    """Give back their sizes to opened dimensions for which the graph has no use in any other.

    Such as channels, or what is multiplied by weights, where the engine would not look: it reads beyond an input that
    is too small.

    Args:
        sizes: that other inputs have.
    """
    for tensor in tensors:
        for axis, dim in enumerate(tensor.shape if tensor.shape.rank.is_static else ()):
            is_opened = dim.is_static and model.inputs[tensor.number].get_partial_shape()[axis].is_dynamic
            if not is_opened or _takes_any(model, tensor.number, axis, _others(dim.get_length())):
                continue
            # What is added to something of more may be of as many, and of no other size.
            if dim.get_length() == 1 and _takes_any(model, tensor.number, axis, (sizes | _constant_sizes(model)) - {1}):
                continue
            _set_size(model, tensor.number, axis, dim)


def _sizes(inputs: Mapping[str, _Tensor]) -> set[int]:
    shapes = (tensor.shape for tensor in inputs.values() if tensor.shape.rank.is_static)
    return {dim.get_length() for shape in shapes for dim in shape if dim.is_static}


def _constant_sizes(model: Any) -> set[int]:
    shapes = (op.get_output_partial_shape(0) for op in model.get_ops() if op.get_type_name() == "Constant")
    sizes = {dim.get_length() for shape in shapes for dim in shape}
    return set(sorted(sizes)[:_SIZES])


def _others(size: int) -> set[int]:
    # Of images some networks take only multiples, and 1 is every size's where it is added to something.
    return {1, size + 1, 2 * size, 3 * size} - {size}


def _takes_any(model: Any, number: int, axis: int, sizes: Iterable[int]) -> bool:
    return any(_takes(model, number, axis, size) for size in sizes)


def _takes(model: Any, number: int, axis: int, size: int) -> bool:
    before = model.inputs[number].get_partial_shape()
    try:
        _set_size(model, number, axis, openvino().Dimension(size, size))
    # As it was then, which OpenVINO sees to.
    except RuntimeError:
        return False
    model.reshape({number: before}, {})
    return True


def _set_size(model: Any, number: int, axis: int, size: Any) -> None:
    shape = list(model.inputs[number].get_partial_shape())
    shape[axis] = size
    model.reshape({number: openvino().PartialShape(shape)}, {})


def _with_shape(tensor: _Tensor, shape: Shape | str) -> Any:
    if not isinstance(shape, str):
        return _partial_shape(shape)
    # The rank stays as it is.
    return tensor.shape if tensor.shape.rank.is_dynamic else _partial_shape([ANY_SIZE] * tensor.shape.rank.get_length())


def _with_batch(tensor: _Tensor, size: Range) -> Any:
    if tensor.shape.rank.is_dynamic:
        return tensor.shape
    batch = batch_axis(tensor.layout)
    return openvino().PartialShape(
        [openvino().Dimension(*size) if axis == batch else dim for axis, dim in enumerate(tensor.shape)]
    )


def _has_batch(tensor: _Tensor) -> bool:
    return bool(tensor.shape.rank.is_dynamic or batch_axis(tensor.layout) < tensor.shape.rank.get_length())


def _partial_shape(shape: Iterable[Range]) -> Any:
    return openvino().PartialShape([openvino().Dimension(*size) for size in shape])


def _tensors(ports: list[Any], names: Mapping[str, str]) -> dict[str, _Tensor]:
    """Return a model's inputs or outputs by the names that clients use."""
    return {
        public_name(port, names): _Tensor(i, frozenset(port.names), port.get_partial_shape(), layout_of(port))
        for i, port in enumerate(ports)
    }


def _by_tensor(
    what: str,
    given: Iterable[tuple[str, T]],
    inputs: Mapping[str, _Tensor],
    outputs: Mapping[str, _Tensor] | None = None,
) -> dict[str, T]:
    """Return what is given, checked to be for tensors that there are; what has no name is the only input's."""
    tensors = {**(outputs or {}), **inputs}
    found: dict[str, T] = {}
    for name, value in given:
        if name == ANY and len(inputs) > 1:
            raise Unsuited(
                f"Anonymous fixed {what} is invalid for models with multiple inputs: want it by name, of "
                f"{', '.join(inputs)}"
            )
        if name != ANY and name not in tensors:
            is_own = any(name in tensor.own for tensor in tensors.values())
            why = "has real name. Use mapped name instead" if is_own else "not found in model"
            raise Unsuited(f"{what.capitalize()} from config {why}: {name} is given; want one of {', '.join(tensors)}")
        found[name or next(iter(inputs))] = value
    return found
