"""Whether compiled models can be published beside a model: tried with a probe file, which is removed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from handlers.doctor.finding import Findings, ok, problem, warning
from model_cache.compiled import DIRECTORY
from model_cache.errors import ClientUnsuitable, ModelCacheError
from model_cache.repository import ModelVersion
from model_cache.s3_location import locate
from model_cache.storage import StorageOptions

_PROBE = ".decant-doctor"
"""No name of a model's file, nor of a compiled model: a server passes it over."""
_ADVICE = {
    "s3": "allow s3:PutObject on prefix/*/compiled/* to whoever runs decant compile; servers do not want it",
    "gs": "grant roles/storage.objectUser to whoever runs decant compile; servers do not want it",
    "az": "grant Storage Blob Data Contributor to whoever runs decant compile; servers do not want it",
    "": "run decant compile as a user who may write there, or with --output",
}


def try_to_write(title: str, version: ModelVersion, url: str, options: StorageOptions) -> Findings:
    title = f"{title}: publishing"
    key = f"{version.prefix}{DIRECTORY}/{_PROBE}"
    scheme = urlsplit(url).scheme.replace("azure", "az")
    here = version.storage.in_place
    was_there = here is not None and (here / version.prefix / DIRECTORY).is_dir()
    try:
        version.storage.put(key, b"decant doctor was here\n")
    except ModelCacheError as exc:
        yield problem("model.publish", title, str(exc), _ADVICE.get(scheme, _ADVICE[""]))
        return
    try:
        if here is not None:
            _remove_file(here / key, is_directory_ours=not was_there)
        else:
            _remover(scheme, url, options)(key)
    # Each client has its own errors. To have written is what was asked.
    except Exception as exc:  # noqa: BLE001
        detail = f"can be written, but the probe file {key} cannot be removed ({type(exc).__name__})"
        yield warning("model.publish", title, detail, "remove it by hand; it does no harm")
        return
    yield ok("model.publish", title, "compiled models can be written beside the version")


def _remove_file(path: Path, *, is_directory_ours: bool) -> None:
    path.unlink()
    if is_directory_ours:
        with suppress(OSError):
            path.parent.rmdir()


def _remover(scheme: str, url: str, options: StorageOptions) -> Callable[[str], None]:
    """Return what removes a blob, by its key below the URL."""
    if options.client != "sdk":
        with suppress(ClientUnsuitable, ModuleNotFoundError):
            import obstore

            from model_cache.fast_stores import find

            place = find(url, options)
            if scheme != "gs":
                return lambda key: obstore.delete(place.store, place.prefix + key)
    return {"s3": _of_s3, "gs": _of_gcs, "az": _of_azure}[scheme](url, options)


def _of_s3(url: str, options: StorageOptions) -> Callable[[str], None]:
    import boto3

    _, bucket, prefix, endpoint = locate(url, options.s3_endpoint)
    client = boto3.session.Session().client("s3", endpoint_url=endpoint or None)

    def remove(key: str) -> None:
        try:
            client.delete_object(Bucket=bucket, Key=prefix + key)
        finally:
            client.close()

    return remove


def _of_gcs(url: str, options: StorageOptions) -> Callable[[str], None]:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.storage import Client

    parts = urlsplit(url)
    is_emulated = "STORAGE_EMULATOR_HOST" in options.environ
    prefix = f"{path}/" if (path := parts.path.strip("/")) else ""

    def remove(key: str) -> None:
        client = Client("none", AnonymousCredentials()) if is_emulated else Client("none")
        try:
            client.bucket(parts.netloc).blob(prefix + key).delete(timeout=options.read_timeout)
        finally:
            client.close()

    return remove


def _of_azure(url: str, options: StorageOptions) -> Callable[[str], None]:
    from model_cache.azure import container_of

    parts = urlsplit(url)
    prefix = f"{path}/" if (path := parts.path.strip("/")) else ""

    def remove(key: str) -> None:
        with container_of(parts.netloc, options, None, {}) as container:
            container.delete_blob(prefix + key)

    return remove
