"""What the command line does without a server: one prediction, or a look at a model."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from handlers.build import build_server, open_repository
from handlers.configuration import models_of
from handlers.remote import Protocol, binary_answer
from handlers.settings import Settings
from model_cache.errors import ModelNotFound
from runtime.codecs.dtypes import tf_name
from runtime.predict import predict_json
from runtime.server import ModelServer
from runtime.signature import TensorSpec


def predict(settings: Settings, version: int | None, body: bytes, protocol: Protocol = "tfs") -> bytes:
    """Answer the body of a protocol's request with the model itself, as a server would.

    Raises:
        ModelCacheError, InferenceError: as a server would answer with.
    """
    server = build_server(settings)
    try:
        if protocol == "tfs":
            return predict_json(server, settings.model_name, version, body)
        return _infer(server, settings.model_name, version, body)
    finally:
        server.close()


def describe(settings: Settings, version: int | None) -> Iterator[str]:
    """Yield lines about the versions there are, and about the signature of one of them."""
    (model,) = models_of(settings).models
    repository = open_repository(model, settings)
    versions = repository.versions()
    if not versions:
        raise ModelNotFound(f"no directory named by a number in {repository}")
    yield str(repository)
    for found in versions.values():
        files = "1 file" if len(found.blobs) == 1 else f"{len(found.blobs)} files"
        yield f"  version {found.id.version}: {found.size} bytes in {files}, digest {found.digest[:12]}"
    # The newest, whether it loads or not: an older one would hide what is wrong with it.
    yield from _signatures(settings, max(versions) if version is None else version)


def _infer(server: ModelServer, name: str, version: int | None, body: bytes) -> bytes:
    from runtime.open_inference import rest

    model = f"/v2/models/{quote(name, safe='')}" + ("" if version is None else f"/versions/{version}")
    reply = rest.begin("POST", f"{model}/infer".encode(), {}).infer(server, body).encode()
    if reply.tail or reply.content_type:
        raise binary_answer()
    return reply.content


def _signatures(settings: Settings, version: int) -> Iterator[str]:
    server = build_server(settings)
    try:
        with server.lease(settings.model_name, version) as lease:
            for name, signature in lease.servable.signatures.items():
                yield f"  signature {name} of version {lease.id.version}"
                for kind, specs in (("input", signature.inputs), ("output", signature.outputs)):
                    for spec in specs.values():
                        yield f"    {kind:6} {spec.name}: {tf_name(spec.dtype)} {_shape(spec)}"
    finally:
        server.close()


def _shape(spec: TensorSpec) -> str:
    return "of any rank" if spec.shape is None else str(list(spec.shape))
