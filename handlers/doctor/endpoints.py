"""Where stores are asked, and what comes back from there without any credentials: that it is there, and its clock."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPRedirectHandler,
    HTTPSHandler,
    ProxyHandler,
    Request,
    build_opener,
)

from handlers.doctor.finding import Finding, Findings, Site, ok, problem, warning
from model_cache.errors import ClientUnsuitable
from model_cache.s3_location import locate
from model_cache.storage import StorageOptions

_PATIENCE = 5.0
_SKEW = 60.0
_REFUSED_SKEW = 900.0
"""Seconds from which on S3 and Azure refuse what is signed."""
_LONG_AGO = 1_735_689_600.0
"""The year 2025, before which there was no Decant."""
_CERTIFICATES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
_METADATA = {
    "s3": ("169.254.169.254", "AWS's metadata service"),
    "gs": ("metadata.google.internal", "Google's metadata server"),
    "az": ("169.254.169.254", "Azure's metadata service"),
}


class Endpoint(NamedTuple):
    scheme: str
    url: str
    """Without a path, as messages may say it."""


def endpoint_of(url: str, options: StorageOptions) -> Endpoint | None:
    """Return where a storage is asked; None if that is not known, or it is no other machine."""
    scheme = urlsplit(url).scheme.replace("azure", "az")
    if scheme not in _METADATA:
        return None
    try:
        from model_cache.fast_stores import find

        address = find(url, options).endpoint
    except (ClientUnsuitable, ModuleNotFoundError, ValueError):
        address = _of_sdk(scheme, url, options)
    parts = urlsplit(address if "://" in address else f"https://{address}")
    return Endpoint(scheme, f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}") if parts.hostname else None


def _of_sdk(scheme: str, url: str, options: StorageOptions) -> str:
    environ = options.environ
    if scheme == "s3":
        try:
            given = locate(url, options.s3_endpoint).endpoint
        except ValueError:
            return ""
        region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or ""
        domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        return given or f"https://s3.{region}.{domain}".replace("..", ".")
    if scheme == "gs":
        given = environ.get("STORAGE_EMULATOR_HOST", "https://storage.googleapis.com")
        return given if "://" in given else f"http://{given}"
    fields = dict(
        field.partition("=")[::2] for field in environ.get("AZURE_STORAGE_CONNECTION_STRING", "").split(";") if field
    )
    account = environ.get("AZURE_STORAGE_ACCOUNT") or fields.get("AccountName", "")
    given = fields.get("BlobEndpoint") or environ.get("AZURE_STORAGE_ACCOUNT_URL", "").partition("?")[0]
    return given or (f"https://{account}.blob.core.windows.net" if account else "")


def check_endpoint(site: Site, endpoint: Endpoint, clock: Callable[[], float] = time.time) -> Findings:
    title = f"endpoint {endpoint.url}"
    began = time.monotonic()
    try:
        date = _date(endpoint.url, site.environ)
    except (OSError, ValueError) as exc:
        reason = exc.reason if isinstance(exc, URLError) else exc
        detail = f"cannot be reached: {_reason(reason)}"
        yield problem("endpoint", title, detail, _advice(endpoint, reason))
        return
    seconds = time.monotonic() - began
    yield ok("endpoint", title, f"answers after {seconds * 1000:.0f} ms")
    if date is not None:
        yield _skew(endpoint, clock() - seconds / 2 - date)


def check_clock(site: Site) -> Findings:
    monotonic, wall = time.monotonic(), time.time()
    time.sleep(0.05)
    if time.monotonic() <= monotonic:
        advice = "restart the machine: nothing that waits would ever end"
        yield problem("clock.monotonic", "clock", "the monotonic clock stands still", advice)
    if wall < _LONG_AGO:
        now = time.strftime("%Y-%m-%d", time.gmtime(wall))
        detail = f"it says {now}, which is past; certificates and signatures would be refused"
        yield problem("clock", "clock", detail, "set the machine's clock, by NTP or chrony")
        return
    yield ok("clock", "clock", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall)))


def check_proxies(site: Site, schemes: Iterable[str]) -> Findings:
    proxy = _given(site.environ, "http_proxy") or _given(site.environ, "all_proxy")
    if not proxy and not _given(site.environ, "https_proxy"):
        yield ok("proxies", "proxies", "none is set")
        return
    yield ok("proxies", "proxies", f"HTTP {_host(proxy)}, HTTPS {_host(_given(site.environ, 'https_proxy'))}")
    for scheme in sorted({scheme.replace("azure", "az") for scheme in schemes} & _METADATA.keys()):
        host, what = _METADATA[scheme]
        if proxy and not _is_direct(host, site.environ):
            detail = f"HTTP_PROXY is set, and NO_PROXY does not name {host}: {what} may be asked through the proxy"
            yield warning("proxies.metadata", "proxies", detail, f"add {host} to NO_PROXY, or unset HTTP_PROXY")


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: object, **__: object) -> None:
        return None


def _date(url: str, environ: Mapping[str, str]) -> float | None:
    """Ask for nothing in particular, and return the time that the answer has.

    Raises:
        OSError: nothing answers.
        ValueError: it is no URL, or what answers has no date that is one.
    """
    parts = urlsplit(url)
    name = _given(environ, f"{parts.scheme}_proxy") or _given(environ, "all_proxy")
    proxies = {} if not name or _is_direct(parts.hostname or "", environ) else {parts.scheme: name}
    opener = build_opener(ProxyHandler(proxies), HTTPSHandler(context=_tls(environ)), _NoRedirect())
    try:
        with opener.open(Request(f"{url}/", method="HEAD"), timeout=_PATIENCE) as answer:
            date = answer.headers.get("Date")
    # Refusing is an answer.
    except HTTPError as exc:
        date = exc.headers.get("Date")
        exc.close()
    return parsedate_to_datetime(date).timestamp() if date else None


def _is_direct(host: str, environ: Mapping[str, str]) -> bool:
    """Return whether NO_PROXY has a host, or a domain that it is in."""
    names = [name.strip().partition(":")[0].lstrip("*.") for name in _given(environ, "no_proxy").split(",")]
    return "*" in _given(environ, "no_proxy").split(",") or any(
        name and (host == name or host.endswith(f".{name}")) for name in names
    )


def _tls(environ: Mapping[str, str]) -> ssl.SSLContext:
    path = next(filter(None, map(environ.get, _CERTIFICATES)), None)
    return ssl.create_default_context(cafile=path)


def _given(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name) or environ.get(name.upper()) or ""


def _host(proxy: str) -> str:
    # A proxy's URL may have a password.
    return proxy.rpartition("@")[2].rpartition("/")[2] or "none" if not proxy.endswith("/") else _host(proxy[:-1])


def _reason(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return f"no answer after {_PATIENCE:.0f} s"
    return getattr(reason, "strerror", None) or str(reason) or type(reason).__name__


def _advice(endpoint: Endpoint, reason: object) -> str:
    if isinstance(reason, ssl.SSLError) and reason.reason == "WRONG_VERSION_NUMBER":
        return "no TLS is spoken there: say http:// and not https://, if that is as it should be"
    if isinstance(reason, ssl.SSLError):
        return "name the authorities in AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE, and check the clock"
    if endpoint.scheme == "s3":
        return "check AWS_REGION or s3_endpoint, DNS, and in a VPC the gateway endpoint for S3 or the NAT"
    return "check the address, DNS, the firewall's egress rules and NO_PROXY"


def _skew(endpoint: Endpoint, skew: float) -> Finding:
    way = "ahead of" if skew > 0 else "behind"
    detail = f"{abs(skew):.0f} s {way} {endpoint.url}"
    if abs(skew) >= _REFUSED_SKEW:
        detail += f"; want less than {_REFUSED_SKEW:.0f} s, from which on signatures are refused (RequestTimeTooSkewed)"
        return problem("clock.skew", "clock", detail, "set the machine's clock, by NTP or chrony")
    if abs(skew) >= _SKEW:
        detail += f"; want less than {_SKEW:.0f} s"
        return warning("clock.skew", "clock", detail, "set the machine's clock, by NTP or chrony")
    return ok("clock.skew", "clock", f"within {max(1.0, abs(skew)):.0f} s of {endpoint.url}")
