"""What the command line does without a server: one prediction, or a look at a model."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from handlers.build import build_server, open_repository
from handlers.settings import Settings
from model_cache.errors import ModelNotFound, StorageUnavailable
from model_cache.repository import ModelVersion
from runtime.codecs.dtypes import tf_name
from runtime.errors import InferenceError
from runtime.predict import predict_json
from runtime.signature import TensorSpec

HTTP_TIMEOUT = 60.0
MAX_ANSWER = 1 << 30


def predict(settings: Settings, version: int | None, body: bytes) -> bytes:
    """Answer a predict body, from a server if the model's path is an http URL and with the model itself otherwise.

    Raises:
        ModelCacheError, InferenceError: as a server would answer with.
    """
    if urlsplit(settings.model_path).scheme in ("http", "https"):
        return _ask(settings.model_path.rstrip("/"), version, body)
    server = build_server(settings)
    try:
        return predict_json(server, settings.model_name, version, body)
    finally:
        server.close()


def describe(settings: Settings, version: int | None) -> Iterator[str]:
    """Yield lines about the versions there are, and about the signature of one of them."""
    repository = open_repository(settings)
    versions = repository.versions()
    if not versions:
        raise ModelNotFound(f"no directory named by a number in {repository}")
    yield str(repository)
    for found in versions.values():
        files = "1 file" if len(found.blobs) == 1 else f"{len(found.blobs)} files"
        yield f"  version {found.id.version}: {found.size} bytes in {files}, digest {found.digest[:12]}"
    yield from _signatures(settings, versions[max(versions)] if version is None else repository.find(version))


def _signatures(settings: Settings, version: ModelVersion) -> Iterator[str]:
    server = build_server(settings)
    try:
        with server.lease(settings.model_name, version.id.version) as lease:
            for name, signature in lease.servable.signatures.items():
                yield f"  signature {name} of version {version.id.version}"
                for kind, specs in (("input", signature.inputs), ("output", signature.outputs)):
                    for spec in specs.values():
                        yield f"    {kind:6} {spec.name}: {tf_name(spec.dtype)} {_shape(spec)}"
    finally:
        server.close()


def _shape(spec: TensorSpec) -> str:
    return "of any rank" if spec.shape is None else str(list(spec.shape))


def _ask(url: str, version: int | None, body: bytes) -> bytes:
    where = url if version is None else f"{url}/versions/{version}"
    try:
        with urlopen(Request(f"{where}:predict", body), timeout=HTTP_TIMEOUT) as answer:
            content: bytes = answer.read(MAX_ANSWER)
            return content
    except HTTPError as exc:
        raise InferenceError(f"{where}:predict answered {exc.code}: {exc.read(1000).decode(errors='replace')}") from exc
    except (URLError, TimeoutError) as exc:
        raise StorageUnavailable(f"cannot reach {where}: {exc}") from exc
