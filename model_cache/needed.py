"""Which of a version's files a model needs; its directory may hold as much again in notebooks and checkpoints."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

_ALWAYS = ("mapping_config.json", "batching_params.pbtxt", "assets.extra/tf_serving_warmup_requests")
_SAVED_MODEL = ("saved_model.pb", "saved_model.pbtxt")
_SAVED_MODEL_FILES = (*_SAVED_MODEL, "fingerprint.pb", "keras_metadata.pb")
_SAVED_MODEL_DIRECTORIES = ("variables/", "assets/", "assets.extra/")
_MODEL_SUFFIXES = (".xml", ".onnx", ".pdmodel", ".tflite")

# What tools and job runners leave behind. Not whatever begins with an underscore: so do tensors ("_fc.weight"), and
# exporters to ONNX name files by them.
_LEFTOVERS = (".", "_SUCCESS", "_FAILURE", "_committed_", "_started_", "_temporary")

# What is plainly no external data of an ONNX model, which may have any other name: "weights.pb", "model.onnx_data",
# "onnx__MatMul_1234".
_FOREIGN_SUFFIXES = (
    *(".md", ".markdown", ".rst", ".txt", ".pdf", ".html", ".htm", ".css", ".ipynb", ".py", ".pyc", ".sh"),
    *(".png", ".jpg", ".jpeg", ".gif", ".svg", ".bmp", ".webp", ".ico", ".tif", ".tiff", ".mp3", ".mp4", ".wav"),
    *(".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst", ".whl"),
    *(".json", ".jsonl", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".csv", ".tsv", ".parquet", ".log"),
    *(".pt", ".pth", ".ckpt", ".safetensors", ".h5", ".hdf5", ".keras", ".msgpack", ".pkl", ".pickle", ".joblib"),
    *(".npy", ".npz", ".pbtxt", ".pdiparams", ".gguf", ".ort", ".engine", ".trt", ".mlmodel", ".caffemodel"),
    *_MODEL_SUFFIXES,
)
# What was compiled of the model, for some servers: no part of it, so that a version stays the same when some is added.
_COMPILED = re.compile(r"compiled/[0-9A-Za-z][0-9A-Za-z._-]{0,150}\.blob")
_CHECKPOINTS = ("pytorch_model", "training_args.bin", "model.ckpt-", "events.out.tfevents", "readme", "license")


def needed(names: Collection[str]) -> list[str]:
    """Return the names of the files that the model needs, sorted; none if there is no model at the top.

    Formats are tried in OpenVINO Model Server's order, and the first one found is the model's. Names that are no plain
    relative paths are needed, so that whoever would store the files refuses them and does not do without.

    Args:
        names: of all files there are, relative to the version's directory.
    """
    odd = {name for name in names if _is_odd(name)}
    plain = {name for name in names if name not in odd and not _is_leftover(name) and not is_compiled(name)}
    top = {name for name in plain if "/" not in name}
    model = _ir(top) or _onnx(top, plain) or _paddle(top) or _tensorflow(top, plain) or _ending(top, ".tflite")
    if not model:
        return []
    return sorted(model | odd | plain.intersection(_ALWAYS) | _ending(plain, ".blob"))


def is_compiled(name: str) -> bool:
    """Return whether it is the name of something compiled of the model; such a name is safe on any disk."""
    return _COMPILED.fullmatch(name) is not None


def _ir(top: set[str]) -> set[str]:
    models = _ending(top, ".xml")
    if not models:
        return set()
    weights = {f"{name.removesuffix('.xml')}.bin" for name in models} & top
    # Model Server takes weights of any name.
    return models | (weights or {name for name in _ending(top, ".bin") if not _is_foreign(name)})


def _onnx(top: set[str], plain: set[str]) -> set[str]:
    models = _ending(top, ".onnx")
    if not models:
        return set()
    # A directory with a model in it is that model's.
    others = {_directory(name) for name in plain - top if name.endswith((*_MODEL_SUFFIXES, *_SAVED_MODEL))}
    foreign = _saved_model(top, plain) | {name for name in plain if _is_foreign(name)}
    return models | {name for name in plain - foreign if others.isdisjoint(_directories(name))}


def _paddle(top: set[str]) -> set[str]:
    weights = _ending(top, ".pdiparams")
    models = _ending(top, ".pdmodel")
    # Paddle 3 writes the model as JSON, and what it takes and gives as YAML.
    for name in weights:
        json, yaml = (name.removesuffix(".pdiparams") + suffix for suffix in (".json", ".yml"))
        if json in top:
            models |= {json, yaml} & top
    return models | weights if models else set()


def _tensorflow(top: set[str], plain: set[str]) -> set[str]:
    return _saved_model(top, plain) or _ending(top, ".pb")


def _saved_model(top: set[str], plain: set[str]) -> set[str]:
    if top.isdisjoint(_SAVED_MODEL):
        return set()
    return top.intersection(_SAVED_MODEL_FILES) | {name for name in plain if name.startswith(_SAVED_MODEL_DIRECTORIES)}


def _ending(names: set[str], suffix: str) -> set[str]:
    return {name for name in names if name.endswith(suffix)}


def _directory(name: str) -> str:
    return name.rpartition("/")[0]


def _directories(name: str) -> Iterator[str]:
    while name := _directory(name):
        yield name


def _is_odd(name: str) -> bool:
    parts = name.split("/")
    return any(part in ("", ".", "..") for part in parts) or any(character in name for character in "\\\0\n\r")


def _is_leftover(name: str) -> bool:
    return any(part.startswith(_LEFTOVERS) for part in name.split("/"))


def _is_foreign(name: str) -> bool:
    file = name.rpartition("/")[2].lower()
    return file.endswith(_FOREIGN_SUFFIXES) or file.startswith(_CHECKPOINTS)
