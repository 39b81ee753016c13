"""Where obstore reads from and as whom, or why it should not.

It should where the environment names the identity outright: keys, a token, a file of a kind that it knows, the address
of a container's or a function's identity. What is left to the SDKs is what takes more than that: profiles, SSO,
programs that give credentials; and a machine's identity that only its metadata service
knows of, as they also find out that there is none.

obstore reads the process's environment, too. Whatever that may change is set here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from model_cache.errors import ClientUnsuitable
from model_cache.s3_location import is_directory_bucket, locate
from model_cache.storage import StorageOptions, public_url

if TYPE_CHECKING:
    from obstore.store import (
        AzureConfig,
        ClientConfig,
        GCSConfig,
        RetryConfig,
        S3Config,
        S3Credential,
        S3CredentialProvider,
    )

_CERTIFICATES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Files of certificates that the SDKs trust, too."""
_LONG = timedelta(days=1)
_AZURE_KEYS = ("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_KEY")
_OTHER_IDENTITIES = (
    "AZURE_CLIENT_SECRET",
    "AZURE_CLIENT_CERTIFICATE_PATH",
    "AZURE_USERNAME",
    "AZURE_TOKEN_CREDENTIALS",
    "IDENTITY_SERVER_THUMBPRINT",
)


class Place(NamedTuple):
    """``prefix`` is empty or ends in a slash; ``endpoint`` is what messages may say of where requests go."""

    store: S3Store | GCSStore | AzureStore
    name: str
    prefix: str
    endpoint: str
    identity: str


class _Options(TypedDict):
    client_options: ClientConfig
    retry_config: RetryConfig


def find(url: str, options: StorageOptions) -> Place:
    """Return the place that the URL means.

    Raises:
        ClientUnsuitable: it is for the SDK.
    """
    finders = {"s3": _find_s3, "gs": _find_gcs, "az": _find_azure, "azure": _find_azure}
    try:
        return finders[urlsplit(url).scheme](url, options)
    except BaseError as exc:
        raise ClientUnsuitable(f"obstore refuses: {' '.join(str(exc).partition('Debug source')[0].split())}") from None


def _find_s3(url: str, options: StorageOptions) -> Place:
    environ = options.environ
    name, bucket, prefix, endpoint = locate(url, options.s3_endpoint)
    _check(bucket, prefix, endpoint)
    if is_directory_bucket(bucket):
        raise ClientUnsuitable(f"{bucket} is a directory bucket")
    for variable in ("AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"):
        if environ.get(variable):
            raise ClientUnsuitable(f"{variable} is set")
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or ("us-east-1" if endpoint else "")
    if not region:
        raise ClientUnsuitable("no region is set")
    if not endpoint and not re.fullmatch(r"(us(-gov)?|af|ap|ca|eu|il|me|mx|sa)-[a-z]+-\d+", region):
        raise ClientUnsuitable(f"{region} is not one of aws.amazon.com's own regions")
    address = endpoint or f"https://s3.{region}.amazonaws.com"
    config: S3Config = {
        "region": region,
        "virtual_hosted_style_request": False,
        "s3_express": False,
        "skip_signature": options.is_anonymous,
    }
    # The stub has other names, which AWS_ENDPOINT_URL_S3 in the process's environment would win over.
    config |= {"aws_endpoint_url_s3": address}
    identity, credentials, credential_provider = _aws_identity(options)
    config.update(credentials)
    store = S3Store(bucket, config=config, credential_provider=credential_provider, **_options(options, endpoint))
    return Place(store, name, prefix, address, identity)


def _aws_identity(options: StorageOptions) -> tuple[str, S3Config, S3CredentialProvider | None]:
    environ = options.environ
    if options.is_anonymous:
        return "nobody", {}, None
    for variable in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE"):
        if environ.get(variable):
            raise ClientUnsuitable(f"{variable} is set")
    home = Path(environ.get("HOME") or "~") / ".aws"
    for variable, default in (
        ("AWS_CONFIG_FILE", home / "config"),
        ("AWS_SHARED_CREDENTIALS_FILE", home / "credentials"),
    ):
        if (path := Path(environ.get(variable) or default).expanduser()).is_file():
            raise ClientUnsuitable(f"there is {path}")
    key, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if key and secret:
        credential: S3Credential = {
            "access_key_id": key,
            "secret_access_key": secret,
            "token": environ.get("AWS_SESSION_TOKEN") or environ.get("AWS_SECURITY_TOKEN"),
            "expires_at": None,
        }
        # Not as settings, to which obstore adds a session token that it finds in the process's environment.
        return "the keys in the environment", {}, lambda: credential
    if key or secret:
        raise ClientUnsuitable("one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set without the other")
    token_file, role = environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"), environ.get("AWS_ROLE_ARN")
    if token_file and role:
        config: S3Config = {"web_identity_token_file": token_file, "role_arn": role}
        if session := environ.get("AWS_ROLE_SESSION_NAME"):
            config["role_session_name"] = session
        if sts := environ.get("AWS_ENDPOINT_URL_STS"):
            config |= {"aws_endpoint_url_sts": sts}  # type: ignore[misc]
        return f"web identity for {role}", config, None
    if environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") or environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        from model_cache.container_credentials import ContainerCredentials

        try:
            return "the container's credentials", {}, ContainerCredentials(environ)
        except ValueError as exc:
            raise ClientUnsuitable(str(exc)) from exc
    raise ClientUnsuitable("the environment names no credentials")


def _find_gcs(url: str, options: StorageOptions) -> Place:
    environ = options.environ
    bucket, prefix = _split(url)
    endpoint = environ.get("STORAGE_EMULATOR_HOST", "")
    if endpoint and "://" not in endpoint:
        endpoint = f"http://{endpoint}"
    _check(bucket, prefix, endpoint)
    config: GCSConfig = {"base_url": endpoint or "https://storage.googleapis.com"}
    if options.is_anonymous or endpoint:
        identity = "nobody"
        # A token, which is not sent, has obstore look for no file of credentials.
        config |= {"skip_signature": True, "bearer_token": "none"}
    elif path := environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
        identity = f"the {_google_kind(Path(path))} in GOOGLE_APPLICATION_CREDENTIALS"
        config |= {"skip_signature": False, "application_credentials": path}
    elif environ.get("GCE_METADATA_HOST") or _is_cloud_run(environ):
        identity = "the service account that the metadata server tells"
        config |= {"skip_signature": False}
    else:
        raise ClientUnsuitable("the environment names no credentials")
    store = GCSStore(bucket, config=config, **_options(options, endpoint))
    return Place(store, f"gs://{bucket}", prefix, config["base_url"], identity)


def _google_kind(path: Path) -> str:
    try:
        credentials = json.loads(path.read_text())
        kind = str(credentials.get("type"))
        universe = credentials.get("universe_domain", "googleapis.com")
    except (OSError, ValueError, AttributeError) as exc:
        raise ClientUnsuitable(f"GOOGLE_APPLICATION_CREDENTIALS cannot be read: {type(exc).__name__}") from exc
    if kind not in ("service_account", "authorized_user") or universe != "googleapis.com":
        raise ClientUnsuitable(f"GOOGLE_APPLICATION_CREDENTIALS has {kind} credentials of {universe}")
    return kind


def _is_cloud_run(environ: Mapping[str, str]) -> bool:
    # Knative sets K_SERVICE, too, but runs on Kubernetes, whosever it is.
    return ("K_SERVICE" in environ or "CLOUD_RUN_JOB" in environ) and "KUBERNETES_SERVICE_HOST" not in environ


def _find_azure(url: str, options: StorageOptions) -> Place:
    container, prefix = _split(url)
    if "?" in url:
        raise ClientUnsuitable("the URL has a query")
    if options.environ.get("AZURE_STORAGE_USE_HTTP_PROXY"):
        raise ClientUnsuitable("AZURE_STORAGE_USE_HTTP_PROXY is set")
    account = _azure_account(options.environ)
    _check(container, prefix, account.url)
    config: AzureConfig = {
        "endpoint": account.url,
        # obstore wants one, and uses it where a key signs.
        "account_name": account.name or "account",
        "use_emulator": False,
        "skip_signature": options.is_anonymous,
    }
    identity, credentials = _azure_identity(account, options)
    config.update(credentials)
    store = AzureStore(container, config=config, **_options(options, account.url))
    return Place(store, f"az://{container}", prefix, account.url, identity)


class _AzureAccount(NamedTuple):
    url: str
    name: str
    key: str
    sas: str


def _azure_account(environ: Mapping[str, str]) -> _AzureAccount:
    if text := environ.get("AZURE_STORAGE_CONNECTION_STRING"):
        return _parse_connection_string(text)
    url, _, sas = environ.get("AZURE_STORAGE_ACCOUNT_URL", "").partition("?")
    name = environ.get("AZURE_STORAGE_ACCOUNT", "")
    if not url and name:
        url = f"https://{name}.blob.core.windows.net"
    if not url:
        raise ClientUnsuitable("the environment names no account")
    if not name and (match := re.fullmatch(r"https?://([^./]+)\.blob\..*", url)):
        name = match[1]
    key = next(filter(None, map(environ.get, _AZURE_KEYS)), "")
    return _AzureAccount(url.rstrip("/"), name, key, environ.get("AZURE_STORAGE_SAS_TOKEN") or sas)


def _parse_connection_string(text: str) -> _AzureAccount:
    fields = dict(field.strip().partition("=")[::2] for field in text.split(";") if field.strip())
    fields = {name.lower(): value for name, value in fields.items()}
    name, key, sas = (fields.get(field, "") for field in ("accountname", "accountkey", "sharedaccesssignature"))
    url = fields.get("blobendpoint", "")
    if not url and name:
        protocol = fields.get("defaultendpointsprotocol", "https")
        url = f"{protocol}://{name}.blob.{fields.get('endpointsuffix', 'core.windows.net')}"
    if not url or not (sas or (name and key)):
        raise ClientUnsuitable("AZURE_STORAGE_CONNECTION_STRING has no account with a key, or no address with a SAS")
    return _AzureAccount(url.rstrip("/"), name, key, sas)


def _azure_identity(account: _AzureAccount, options: StorageOptions) -> tuple[str, AzureConfig]:
    environ = options.environ
    if options.is_anonymous:
        return "nobody", {}
    if account.key and account.name:
        return "the account's key", {"account_key": account.key, "credential_type": "access_key"}
    if account.key:
        raise ClientUnsuitable("the key's account is not named")
    if account.sas:
        return "a shared access signature", {"sas_key": account.sas.lstrip("?"), "credential_type": "sas_token"}
    for variable in _OTHER_IDENTITIES:
        if environ.get(variable):
            raise ClientUnsuitable(f"{variable} is set")
    client, tenant = environ.get("AZURE_CLIENT_ID"), environ.get("AZURE_TENANT_ID")
    if (token_file := environ.get("AZURE_FEDERATED_TOKEN_FILE")) and client and tenant:
        config: AzureConfig = {
            "federated_token_file": token_file,
            "client_id": client,
            "tenant_id": tenant,
            "credential_type": "workload_identity",
        }
        if authority := environ.get("AZURE_AUTHORITY_HOST"):
            config["authority_host"] = authority
        return "workload identity", config
    if (endpoint := environ.get("IDENTITY_ENDPOINT")) and environ.get("IDENTITY_HEADER"):
        config = {"msi_endpoint": endpoint, "credential_type": "managed_identity"}
        if client:
            config["client_id"] = client
        return "managed identity", config
    raise ClientUnsuitable("the environment names no credentials")


def _split(url: str) -> tuple[str, str]:
    bucket, _, path = url.partition("://")[2].partition("/")
    prefix = path.strip("/")
    return bucket, f"{prefix}/" if prefix else ""


def _check(bucket: str, prefix: str, endpoint: str) -> None:
    """Leave to the SDK what obstore cannot say, and what it fails on without a proper error."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", bucket):
        raise ClientUnsuitable(f"{bucket!r} is no plain name")
    if prefix and any(part in ("", ".", "..") for part in prefix[:-1].split("/")):
        raise ClientUnsuitable(f"{prefix!r} is no plain path")
    if endpoint and not re.fullmatch(r"https?://[A-Za-z0-9.:_\[\]-]+(/[A-Za-z0-9._/-]*)?", endpoint):
        raise ClientUnsuitable(f"{public_url(endpoint)!r} is no plain URL")


def _options(options: StorageOptions, endpoint: str) -> _Options:
    client: ClientConfig = {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=options.connect_timeout),
        "read_timeout": timedelta(seconds=options.read_timeout),
        # Of a request as a whole, which is as long as the network is slow.
        "timeout": _LONG,
    }
    if path := next(filter(None, map(options.environ.get, _CERTIFICATES)), ""):
        try:
            client["root_certificate"] = Path(path).read_bytes()
        except OSError as exc:
            raise ClientUnsuitable(f"{path} is no file of certificates") from exc
    # Whoever fetches tries again, and so does list().
    return {"client_options": client, "retry_config": {"max_retries": 0}}
