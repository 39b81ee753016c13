"""The models that sizes are derived from, and a request to each, made from what the server says of its inputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.clients import GrpcClient
from benchmarks.make_resnet50 import write_resnet50
from benchmarks.tasks import DIGITS, BenchmarkFailed
from runtime.codecs import schema, tensor_proto
from tests.golden import real
from tests.servers.decant import Decant

Shape = tuple[int, ...]

_DTYPES = {"DT_FLOAT": np.float32, "DT_INT32": np.int32, "DT_INT64": np.int64, "DT_UINT8": np.uint8}


class Subject(NamedTuple):
    name: str
    base: str
    """A directory, or a URL that Decant can read."""
    size: int
    """Bytes of its files."""
    shapes: Mapping[str, Shape] = {}
    """Of a request's inputs; of those that are not here all unknown dimensions are 1."""

    @property
    def path(self) -> str:
        return f"/v1/models/{self.name}:predict"


class Asked(NamedTuple):
    """A request, in both forms, and the sizes of what goes in and comes out."""

    body: bytes
    message: bytes
    answer: int
    """Bytes of the answering message."""
    tensors: int
    """Bytes of the inputs and the outputs as arrays."""


def _digits(directory: Path) -> Subject:
    return local("digits", DIGITS)


def _resnet50(directory: Path) -> Subject:
    write_resnet50(directory / "resnet50")
    return local("resnet50", directory / "resnet50", {"image": (1, 3, 224, 224)})


def _real(name: str, shapes: Mapping[str, Shape]) -> Callable[[Path], Subject]:
    return lambda directory: local(name, real.place(name, directory / name), shapes)


SUBJECTS: Mapping[str, Callable[[Path], Subject]] = {
    "digits": _digits,
    "face": _real("face", {}),
    "text_recogniser": _real("text_recogniser", {"x": (1, 3, 48, 320)}),
    "magika": _real("magika", {}),
    "text_detector": _real("text_detector", {"x": (1, 3, 640, 640)}),
    "resnet50": _resnet50,
}


def local(name: str, base: Path, shapes: Mapping[str, Shape] | None = None) -> Subject:
    """Return a model below a directory; its size is the newest version's."""
    versions = [path for path in base.iterdir() if path.name.isdecimal()] if base.is_dir() else []
    if not versions:
        raise BenchmarkFailed(f"no version of a model in {base}; want {base}/1/model.xml or the like")
    newest = max(versions, key=lambda path: int(path.name))
    size = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
    return Subject(name, str(base), size, shapes or {})


def ask(subject: Subject, server: Decant) -> Asked:
    """Make a request and send it once."""
    arrays = {name: _array(spec, subject.shapes.get(name)) for name, spec in _inputs(subject, server).items()}
    inputs = {name: _plain(array) for name, array in arrays.items()}
    message = schema.PredictRequest()
    message.model_spec.name = subject.name
    for name, array in arrays.items():
        tensor_proto.encode(array, message.inputs[name], tensor_content_from=1)
    serialized = message.SerializeToString()
    answer = _call(server, serialized)
    outputs = schema.PredictResponse.FromString(answer).outputs
    received = sum(tensor_proto.decode(name, outputs[name]).nbytes for name in outputs)
    sent = sum(array.nbytes for array in arrays.values())
    return Asked(json.dumps({"inputs": inputs}).encode(), serialized, len(answer), sent + received)


def _inputs(subject: Subject, server: Decant) -> Mapping[str, Any]:
    reply = server.get(f"/v1/models/{subject.name}/metadata")
    if reply.status != 200:
        raise BenchmarkFailed(f"{subject.name} has no metadata: {reply.body}")
    found: Mapping[str, Any] = reply.body["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]
    return found


def _array(spec: Mapping[str, Any], shape: Shape | None) -> npt.NDArray[Any]:
    dtype = _DTYPES.get(spec["dtype"])
    if dtype is None:
        raise BenchmarkFailed(f"an input is {spec['dtype']}; want one of {', '.join(_DTYPES)}")
    sizes = [int(dim["size"]) for dim in spec["tensor_shape"].get("dim", ())]
    found = shape or tuple(max(1, size) for size in sizes)
    random = np.random.default_rng(7)
    return random.random(found, np.float32) if dtype is np.float32 else random.integers(0, 9, found).astype(dtype)


def _plain(array: npt.NDArray[Any]) -> Any:
    # f32 printed as f64 would be twenty digits of noise per number.
    return np.round(array.astype(np.float64), 4).tolist() if array.dtype == np.float32 else array.tolist()


def _call(server: Decant, message: bytes) -> bytes:
    with GrpcClient(server.grpc_port, message) as client:
        return client()
