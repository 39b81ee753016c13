"""What the command line does without a server: one prediction, or a look at a model."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from handlers.build import build_server, open_repository
from handlers.configuration import models_of
from handlers.settings import Settings, SettingsError
from model_cache.errors import ModelNotFound, StorageUnavailable
from runtime.codecs.dtypes import tf_name
from runtime.errors import InferenceError
from runtime.predict import predict_json
from runtime.signature import TensorSpec

HTTP_TIMEOUT = 60.0
MAX_ANSWER = 1 << 30


def predict(settings: Settings, version: int | None, body: bytes) -> bytes:
    """Answer a predict body, from a server if the model's path is an http URL and with the model itself otherwise.

    Raises:
        SettingsError: the model's path is a malformed URL.
        ModelCacheError, InferenceError: as a server would answer with.
    """
    if settings.model_path.lower().startswith(("http://", "https://")):
        return _ask(settings.model_path.rstrip("/"), version, body)
    server = build_server(settings)
    try:
        return predict_json(server, settings.model_name, version, body)
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


def _ask(url: str, version: int | None, body: bytes) -> bytes:
    where = f"{url if version is None else f'{url}/versions/{version}'}:predict"
    try:
        return _post(where, body)
    # A port that is no number is an InvalidURL and so an HTTPException; one that is too large overflows.
    except (ValueError, OverflowError) as exc:
        raise SettingsError(f"cannot ask {url}: {_one_line(str(exc))}") from exc
    except (OSError, HTTPException) as exc:
        raise StorageUnavailable(f"cannot reach {where}: {_one_line(str(exc) or repr(exc))}") from exc


def _post(url: str, body: bytes) -> bytes:
    try:
        answer: HTTPResponse
        with urlopen(Request(url, body), timeout=HTTP_TIMEOUT) as answer:
            content = answer.read(MAX_ANSWER)
            # Told the length, http.client takes less without a word.
            if answer.length:
                raise StorageUnavailable(f"{url} did not send all of its answer")
            return content
    except HTTPError as exc:
        told = _one_line(exc.read(1000).decode(errors="replace"))
        raise InferenceError(f"{url} answered {exc.code}: {told}") from exc


def _one_line(text: str) -> str:
    return " ".join(text.split())
