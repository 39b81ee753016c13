"""How a model is to be made ready: what OpenVINO Model Server's config.json and flags say of one model.

Values are checked for their form where they are read. Whether they fit the model is found out when it is loaded.
"""

from __future__ import annotations

from typing import NamedTuple

from runtime.signature import Range

Shape = tuple[Range, ...]

AUTO = "auto"
"""Instead of a shape or a batch size: whatever a request brings."""
ANY = ""
"""Instead of an input's name: the only input, or all of them."""
MAX_REQUESTS = 100_000
"""Infer requests of a model; OpenVINO Model Server's limit."""
MAX_SEQUENCES = 500
"""Sequences of a stateful model at a time, as long as nothing else is said."""


class Layout(NamedTuple):
    """OpenVINO's layouts, such as NHWC, N...C or ?C."""

    tensor: str
    """What clients send or get."""
    model: str = ""
    """What the model has, if that is something else or has to be said; then what clients send is transposed."""


class ImageSteps(NamedTuple):
    """What is done to an input before the model sees it, compiled into the model; later OVMS's flags of these names."""

    mean: tuple[float, ...] = ()
    """To be subtracted: one number, or one for each channel."""
    scale: tuple[float, ...] = ()
    """To be divided by, after that; likewise."""
    color_format: tuple[str, str] | None = None
    """What the clients send and what the model wants: RGB, BGR, GRAY, NV12, NV12_2, I420 or I420_3."""
    precision: tuple[str, str] | None = None
    """OpenVINO's names of the types that clients send and that the model wants, such as ("u8", "f32")."""


class Stateful(NamedTuple):
    """Of a model that keeps state from one request of a sequence to the next."""

    max_sequences: int = MAX_SEQUENCES
    has_idle_cleanup: bool = True
    has_low_latency: bool = False
    """Whether OpenVINO's LowLatency2 is applied, which makes a state of each loop's."""


class ModelOptions(NamedTuple):
    """Hashable, so that a version with other options is another one to the cache. Pairs are sorted by name."""

    shape: tuple[tuple[str, Shape | str], ...] = ()
    """By input: a shape, or `AUTO`. `ANY` is the one input of a model that has one, or with `AUTO` all inputs."""
    batch_size: Range | str | None = None
    """None is the model's own, and what there is beside a shape."""
    layout: tuple[tuple[str, Layout], ...] = ()
    """By input or output; `ANY` is the one input, or all inputs."""
    steps: tuple[tuple[str, ImageSteps], ...] = ()
    """By input; `ANY` is all inputs."""
    requests: int = 0
    """Infer requests; 0 is as many as keep the engine busy."""
    device: str = "CPU"
    """CPU, or with devices behind it AUTO:…, MULTI:… or HETERO:…"""
    properties: tuple[tuple[str, str], ...] = ()
    """OpenVINO's, which the model is compiled with before those that hold for all."""
    allows_cache: bool = False
    """Whether a model whose shape is `AUTO` may be imported as it was compiled before."""
    stateful: Stateful | None = None
    """None is a model that answers each request by itself."""

    @property
    def is_reshaped(self) -> bool:
        return bool(self.shape) or self.batch_size is not None

    @property
    def is_auto(self) -> bool:
        """Whether some input takes whatever a request brings."""
        return self.batch_size == AUTO or any(shape == AUTO for _, shape in self.shape)

    @property
    def changes(self) -> tuple[object, ...]:
        """What is done to the model itself before it is compiled; empty if it is compiled as it is stored."""
        has_low_latency = self.stateful is not None and self.stateful.has_low_latency
        has_any = self.is_reshaped or self.layout or self.steps or has_low_latency
        return (self.shape, self.batch_size, self.layout, self.steps, has_low_latency) if has_any else ()


DEFAULTS = ModelOptions()


def options_of(version_options: object) -> ModelOptions:
    """Return a version's options, which are the default ones if it has none."""
    return version_options if isinstance(version_options, ModelOptions) else DEFAULTS
