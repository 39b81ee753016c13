"""As whom a store is asked: where credentials are found, and until when they hold. Never what they are."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from handlers.doctor.finding import Finding, Findings, Site, ok, problem, warning
from model_cache.container_credentials import FULL_URI, RELATIVE_URI, ContainerCredentials
from model_cache.errors import ClientUnsuitable
from model_cache.storage import StorageOptions, misplaced_secret

_SOON = 3600.0
_WANTED = {
    "s3": "give the pod, task or function a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; "
    "in a container on EC2 the instance's metadata hop limit has to be 2; for public buckets storage_anonymous",
    "gs": "run as a service account, or set GOOGLE_APPLICATION_CREDENTIALS; for public buckets storage_anonymous",
    "az": "give it a managed identity and azure-identity, or set AZURE_STORAGE_CONNECTION_STRING, a key or a SAS",
}


class Identity(NamedTuple):
    who: str
    """Empty for nobody."""
    expires: float | None = None
    """Seconds since the epoch; None if nobody says."""
    is_renewed: bool = False
    """Whether it is got anew before that."""


def check_credentials(site: Site, scheme: str, url: str, options: StorageOptions) -> Findings:
    scheme = scheme.replace("azure", "az")
    title = f"credentials for {scheme}://"
    if options.is_anonymous:
        yield ok("credentials", title, "none are sent, as storage_anonymous says")
        return
    if misplaced := misplaced_secret(scheme, options):
        yield problem(
            "credentials", title, misplaced, "mount the file and name it there; the value is in plain sight here"
        )
        return
    try:
        client, identity = _identity(scheme, url, options)
    # Each client has its own errors, and fails alike.
    except Exception as exc:  # noqa: BLE001
        yield problem("credentials", title, f"they cannot be had: {type(exc).__name__}: {exc}", _WANTED[scheme])
        return
    region = f", region {_region(site.environ)}" if scheme == "s3" else ""
    if not identity.who:
        detail = f"none are found: {client} asks as nobody{region}"
        yield warning("credentials", title, detail, _WANTED[scheme])
        return
    yield ok("credentials", title, f"{identity.who}, by {client}{region}")
    if identity.expires is not None:
        yield _expiry(title, identity)


def _identity(scheme: str, url: str, options: StorageOptions) -> tuple[str, Identity]:
    environ = options.environ
    if options.client != "sdk":
        try:
            from model_cache.fast_stores import find

            who = find(url, options).identity
        except (ClientUnsuitable, ModuleNotFoundError, ValueError):
            if options.client == "obstore":
                return "obstore", Identity("")
        else:
            return "obstore", _of_environment(scheme, "" if who == "nobody" else who, environ)
    ask = {"s3": _of_boto, "gs": _of_google, "az": _of_azure}[scheme]
    return "the SDK", ask(environ)


def _of_environment(scheme: str, who: str, environ: Mapping[str, str]) -> Identity:
    """Add what is known without asking anybody but the container's own agent."""
    if scheme == "s3" and "keys" in who:
        kind = ", temporary" if environ.get("AWS_SESSION_TOKEN") else ""
        return Identity(f"{who} ({_last(environ.get('AWS_ACCESS_KEY_ID', ''))}{kind})")
    if scheme == "s3" and who.startswith("web identity"):
        return Identity(who, _of_token(environ.get("AWS_WEB_IDENTITY_TOKEN_FILE", "")), is_renewed=True)
    if scheme == "s3" and (environ.get(RELATIVE_URI) or environ.get(FULL_URI)):
        found = ContainerCredentials(environ)()
        until = found.get("expires_at")
        expires = until.timestamp() if until else None
        return Identity(f"{who} ({_last(found['access_key_id'])})", expires, is_renewed=True)
    if scheme == "az" and "shared access signature" in who:
        return Identity(who, _of_sas(environ))
    return Identity(who)


def _of_boto(environ: Mapping[str, str]) -> Identity:
    import botocore.session

    credentials: Any = botocore.session.Session().get_credentials()
    if credentials is None:
        return Identity("")
    key = credentials.get_frozen_credentials().access_key
    until = getattr(credentials, "_expiry_time", None)
    profile = f", profile {environ['AWS_PROFILE']}" if environ.get("AWS_PROFILE") else ""
    who = f"{credentials.method}{profile} ({_last(key)})"
    return Identity(who, until and until.timestamp(), is_renewed=until is not None)


def _of_google(environ: Mapping[str, str]) -> Identity:
    if environ.get("STORAGE_EMULATOR_HOST"):
        return Identity("nobody, of an emulator")
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError

    try:
        credentials, _ = google.auth.default()
    except DefaultCredentialsError:
        # A file that is named and cannot be used is a mistake, and not "none".
        if environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
            raise
        return Identity("")
    email = getattr(credentials, "service_account_email", "")
    return Identity(f"{type(credentials).__module__.rpartition('.')[2]} {email}".strip())


def _of_azure(environ: Mapping[str, str]) -> Identity:
    if environ.get("AZURE_STORAGE_CONNECTION_STRING"):
        return Identity("AZURE_STORAGE_CONNECTION_STRING", _of_sas(environ))
    if any(map(environ.get, ("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_KEY"))):
        return Identity("the account's key")
    if environ.get("AZURE_STORAGE_SAS_TOKEN") or "?" in environ.get("AZURE_STORAGE_ACCOUNT_URL", ""):
        return Identity("a shared access signature", _of_sas(environ))
    try:
        from azure.identity import DefaultAzureCredential
    except ModuleNotFoundError:
        return Identity("")
    with DefaultAzureCredential() as credential:
        until = credential.get_token("https://storage.azure.com/.default").expires_on
    return Identity("an identity of Entra ID", float(until), is_renewed=True)


def _expiry(title: str, identity: Identity) -> Finding:
    left = (identity.expires or 0.0) - time.time()
    until = datetime.fromtimestamp(identity.expires or 0.0, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if left <= 0:
        detail = f"they have expired, at {until}"
        return problem("credentials.expiry", title, detail, "renew them, or check the clock")
    if left < _SOON and not identity.is_renewed:
        return warning("credentials.expiry", title, f"they expire at {until}", "renew them, or use a role")
    renewed = ", and are got anew before" if identity.is_renewed else ""
    return ok("credentials.expiry", title, f"they expire at {until}{renewed}")


def _last(key: str) -> str:
    return f"key …{key[-4:]}" if len(key) >= 16 else "a short key"


def _region(environ: Mapping[str, str]) -> str:
    return environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "not set"


def _of_token(path: str) -> float | None:
    """Return when the token in a file expires, which it says itself.

    Raises:
        OSError: the file cannot be read.
    """
    payload = Path(path).read_text().strip().split(".")[1:2]
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload[0] + "=" * (-len(payload[0]) % 4)))
        return float(claims["exp"])
    except (ValueError, LookupError, TypeError):
        return None


def _of_sas(environ: Mapping[str, str]) -> float | None:
    """Return when a shared access signature expires; None if there is none."""
    text = environ.get("AZURE_STORAGE_SAS_TOKEN") or environ.get("AZURE_STORAGE_ACCOUNT_URL", "").partition("?")[2]
    for field in environ.get("AZURE_STORAGE_CONNECTION_STRING", "").split(";"):
        text = field.partition("=")[2] if field.lower().startswith("sharedaccesssignature=") else text
    try:
        return datetime.fromisoformat(parse_qs(text.lstrip("?"))["se"][0].replace("Z", "+00:00")).timestamp()
    except (KeyError, ValueError):
        return None
