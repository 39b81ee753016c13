"""Each model where it is stored: tried for real, as whoever serves it would, and explained where that fails."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import NamedTuple
from urllib.parse import urlsplit

from handlers.configuration import ModelConfig
from handlers.doctor.finding import Finding, Findings, Site, ok, problem, size, warning
from model_cache.errors import LoadPending, ModelCacheError, StorageUnavailable
from model_cache.policy import All
from model_cache.repository import ModelRepository, ModelVersion
from model_cache.storage import Blob, Storage, StorageOptions, open_storage

_FIRST = 1024
_SHOWN = 5

_DENIED = re.compile(
    r"Access ?Denied|\b403\b|Forbidden|PermissionMismatch|Permission.*denied|PublicAccessNotPermitted", re.IGNORECASE
)
_NOWHERE = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist|\b404\b|Not Found")
_CLOCK = re.compile(r"RequestTimeTooSkewed|RequestExpired")
_EXPIRED = re.compile(r"ExpiredToken|TokenRefreshRequired|token.*expired", re.IGNORECASE)
_UNKNOWN = re.compile(
    r"InvalidAccessKeyId|SignatureDoesNotMatch|AuthenticationFailed|\b401\b|InvalidToken|Unauthenticated"
)
# Of Azure's: it says the same of a signature that is wrong or past, and of who comes from where nobody may.
_FIREWALL = re.compile(r"AuthorizationFailure")
_KEYS_OFF = re.compile(r"KeyBasedAuthenticationNotPermitted")
_NO_BASE64 = re.compile(r"Incorrect padding|base64", re.IGNORECASE)
_CREDENTIALS = re.compile(
    r"config profile|token file|External AWS credential provider|credentials|no file .*token|oauth2|metadata",
    re.IGNORECASE,
)
_NO_TLS = re.compile(r"WRONG_VERSION_NUMBER|InvalidContentType|corrupt message")
_TLS = re.compile(r"CERTIFICATE_VERIFY_FAILED|SSL|certificate|UnknownIssuer|CaUsedAsEndEntity")
_UNSAID = re.compile(r"error sending request.*\bhttps://")
_TRUST = (
    "name the authority's certificate in AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE: SSL_CERT_FILE does not count for the "
    "SDKs; obstore takes none that is an authority's and the server's own in one, for which there is storage_client sdk"
)
_REGION = re.compile(r"PermanentRedirect|AuthorizationHeaderMalformed|incorrectly configured region|\b301\b")
LIST = {
    "s3": "allow s3:ListBucket on the bucket for this prefix; without it S3 answers 403 for what is not there, too, "
    "so the prefix may also be misspelt",
    "gs": "grant roles/storage.objectViewer on the bucket (storage.objects.list)",
    "az": "grant Storage Blob Data Reader on the container, or a SAS with rl",
}
_READ = {
    "s3": "allow s3:GetObject on the bucket's prefix/*, and kms:Decrypt on the key if a key of KMS encrypts it",
    "gs": "grant roles/storage.objectViewer on the bucket (storage.objects.get)",
    "az": "grant Storage Blob Data Reader on the container, or a SAS with rl",
    "": "make the files readable for this user",
}


class Stored(NamedTuple):
    """A model with the versions that would be served."""

    model: ModelConfig
    versions: Mapping[int, ModelVersion]
    newest: ModelVersion
    in_place: bool


def check_model(site: Site, model: ModelConfig, options: StorageOptions, stored: list[Stored]) -> Findings:
    """List a model, read from it, and append what is there to ``stored``."""
    title = f"model {model.name}"
    try:
        storage = open_storage(model.base_path, options)
    except (ValueError, StorageUnavailable) as exc:
        yield problem("model.storage", title, str(exc), "mend its path, or install what reads it")
        return
    repository = ModelRepository(
        model.name, storage, policy=model.policy, options=model.options, ready_marker=site.settings.ready_marker
    )
    began = time.monotonic()
    try:
        versions = repository.versions()
    except LoadPending as exc:
        yield warning("model.versions", title, str(exc), "ask again when the upload has ended")
        return
    except ModelCacheError as exc:
        yield refused(f"{title}: listing", "model.list", exc, storage, LIST)
        return
    seconds = time.monotonic() - began
    yield ok("model.list", f"{title}: listing", f"{storage} in {seconds * 1000:.0f} ms")
    if not versions:
        yield _no_versions(site, model, storage, repository)
        return
    yield from _described(model, versions, repository)
    newest = (repository.candidates() or [versions[max(versions)]])[0]
    stored.append(Stored(model, versions, newest, storage.in_place is not None))
    yield from _read(title, newest, storage)
    if site.writes:
        from handlers.doctor.publishing import try_to_write

        yield from try_to_write(title, newest, model.base_path, options)


def refused(title: str, id: str, exc: ModelCacheError, storage: Storage, permissions: Mapping[str, str]) -> Finding:
    scheme = urlsplit(str(storage)).scheme
    text = str(exc)
    # What comes first is what was asked for, which may be called anything.
    reason = re.sub(r"^cannot \w+ .*?: ", "", text, count=1)
    return problem(id, title, text, _advice(scheme if scheme in permissions else "", reason, permissions))


def _advice(scheme: str, text: str, permissions: Mapping[str, str]) -> str:
    if _NO_TLS.search(text):
        return "no TLS is spoken there: say http:// and not https://, if that is as it should be"
    if _TLS.search(text):
        return _TRUST
    if _CLOCK.search(text):
        return "set the machine's clock, by NTP or chrony"
    if _EXPIRED.search(text):
        return "renew the credentials, or use a role"
    if _UNKNOWN.search(text):
        return "the store does not know these credentials: check key and secret, and that they are of this store"
    if _FIREWALL.search(text):
        return (
            "check the key or the SAS, and when that ends; else the account's firewall: its network rules have to let "
            "this place in"
        )
    if _KEYS_OFF.search(text):
        return "the account takes no keys: use a managed or workload identity"
    if _NO_BASE64.search(text):
        return "the account's key is no base64: copy it as a whole, with the = at its end"
    if _REGION.search(text):
        return "set AWS_REGION to the bucket's region"
    if re.search("NoSuchBucket|ContainerNotFound", text):
        return "check the bucket's name, and the account and region it is in"
    if _DENIED.search(text):
        return permissions.get(scheme, "make the directory readable for this user")
    if _NOWHERE.search(text):
        return "check the bucket's name, and the account and region it is in"
    if _UNSAID.search(text):
        return f"see what is said of the endpoint; if it answers, TLS is refused here: {_TRUST}"
    if _CREDENTIALS.search(text):
        return "see what is said of the credentials"
    return "see what is said of the endpoint; check the path" if scheme else "check the path, and that it is mounted"


def _no_versions(site: Site, model: ModelConfig, storage: Storage, repository: ModelRepository) -> Finding:
    title = f"model {model.name}: versions"
    if pending := repository.unsettled():
        detail = f"{_numbers(pending)} have only just appeared and may still be uploaded"
        return warning("model.versions", title, detail, "ask again in ten seconds, or use ready_marker")
    if stored := repository.stored:
        detail = f"the policy {model.policy} offers none of those there are: {_numbers(sorted(stored))}"
        return problem("model.versions", title, detail, "mend model_version_policy")
    names = [blob.key for blob, _ in zip(storage.list(), range(_SHOWN), strict=False)]
    marker = site.settings.ready_marker
    if not names:
        detail = f"there is nothing below {storage}; want files in {storage}/1/"
        return problem("model.versions", title, detail, "check the path, or upload the model to a directory 1")
    detail = f"no directory below {storage} is named by a number; found {', '.join(names)}"
    if marker:
        detail += f" (and only versions with a file {marker} count)"
        return problem("model.versions", title, detail, f"put the files in {storage}/1/, and {marker} last")
    return problem("model.versions", title, detail, f"put the files in {storage}/1/, or give the directory above")


def _described(model: ModelConfig, versions: Mapping[int, ModelVersion], repository: ModelRepository) -> Findings:
    title = f"model {model.name}: versions"
    has_policy = model.policy is not None and not isinstance(model.policy, All)
    of_these = f" of {_numbers(sorted(repository.stored))}" if has_policy else ""
    yield ok("model.versions", title, f"served: {_numbers(sorted(versions))}{of_these}")
    if pending := repository.unsettled():
        detail = f"{_numbers(pending)} have only just appeared and may still be uploaded"
        yield warning("model.versions", title, detail, "ask again in ten seconds, or use ready_marker")
    for label, number in model.labels.items():
        if number not in versions:
            detail = f"label {label!r} is of version {number}, which is not served; want one of those that are"
            yield problem("model.labels", f"model {model.name}: labels", detail, "mend version_labels, or the policy")
    for number, version in sorted(versions.items(), reverse=True)[:_SHOWN]:
        if not version.files:
            names = ", ".join(blob.key.removeprefix(version.prefix) for blob in version.blobs[:_SHOWN])
            detail = f"no file is a model of a known format; found {names or 'nothing'}"
            advice = "want one .xml with its .bin, .onnx, .pdmodel, saved_model.pb or .tflite at its top"
            yield problem("model.files", f"model {model.name}, version {number}", detail, advice)
        else:
            yield _format(model, number, version)


def _format(model: ModelConfig, number: int, version: ModelVersion) -> Finding:
    title = f"model {model.name}, version {number}"
    kind, names = format_of(version)
    detail = f"{size(version.size)} in {len(version.files)} files, {kind}"
    if len(names) > 1:
        detail += f": {', '.join(names[:_SHOWN])}; want one"
        return problem("model.files", title, detail, "leave one of them, or make versions of them")
    if kind == ".xml" and not any(blob.key.endswith(".bin") for blob in version.files):
        advice = "upload the .bin beside it, unless the model has no weights"
        return warning("model.files", title, f"{detail}, and no .bin with its weights", advice)
    return ok("model.files", title, detail)


def format_of(version: ModelVersion) -> tuple[str, list[str]]:
    """Return the suffix or the name of the model's file, and all files of that kind."""
    names = [blob.key.removeprefix(version.prefix) for blob in version.files]
    top = [name for name in names if "/" not in name]
    paddle = {name.removesuffix(".pdiparams") + ".json" for name in top if name.endswith(".pdiparams")}
    for kind in (".xml", ".onnx", ".pdmodel", ".json", "saved_model.pb", ".pb", ".tflite"):
        found = [name for name in top if (name in paddle if kind == ".json" else name.endswith(kind))]
        if kind == "saved_model.pb":
            found = [name for name in found if name == kind]
        if found:
            return kind, found
    return "of no known format", []


def _read(title: str, version: ModelVersion, storage: Storage) -> Findings:
    blob = max(version.files or version.blobs, key=lambda blob: blob.size, default=None)
    if blob is None or not blob.size:
        return
    began = time.monotonic()
    try:
        with closing(storage.fetch(blob, 0, min(blob.size, _FIRST))) as pieces:
            next(pieces)
    except ModelCacheError as exc:
        yield refused(f"{title}: reading", "model.read", exc, storage, _READ)
        return
    yield ok("model.read", f"{title}: reading", f"first byte of {_name(blob)} after {_ms(began)}")


def _ms(began: float) -> str:
    return f"{(time.monotonic() - began) * 1000:.0f} ms"


def _name(blob: Blob) -> str:
    return blob.key.rpartition("/")[2][:100]


def _numbers(numbers: Iterable[int]) -> str:
    found = list(map(str, numbers))
    return ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
