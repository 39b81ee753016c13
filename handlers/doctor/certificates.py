"""gRPC's key and certificate: whether they are a pair, can be used, and for how long."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager

from handlers.doctor.finding import Finding, Findings, Site, ok, problem, warning
from handlers.settings import OF_TLS, SettingsError
from handlers.tls import Tls, read_tls

_SOON = 14 * 86400.0
_EXPIRED = 10
"""OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED, and the next that a certificate is not valid yet."""
_NOT_YET = 9
_RENEW = "renew it, and start Decant anew: it reads the files once"


def check_tls(site: Site) -> Findings:
    if not site.settings.given(OF_TLS):
        yield ok("tls", "TLS", "not asked for: gRPC is in plain text")
        return
    try:
        tls = read_tls(site.settings)
    except SettingsError as exc:
        yield problem("tls", "TLS", str(exc), "mount the files, readable for this user, or mend the settings")
        return
    if tls is not None:
        yield _validity(tls)


def _validity(tls: Tls) -> Finding:
    try:
        until = ssl.cert_time_to_seconds(_shown(tls))
    except ssl.SSLCertVerificationError as exc:
        if exc.verify_code in (_EXPIRED, _NOT_YET):
            what = "has expired" if exc.verify_code == _EXPIRED else "is not valid yet"
            return problem("tls.validity", "certificate", f"it {what} by this machine's clock", _RENEW)
        detail = f"it cannot be checked: {exc.verify_message}"
        return warning("tls.validity", "certificate", detail, "try it with openssl verify -purpose sslserver")
    day = time.strftime("%Y-%m-%d", time.gmtime(until))
    if until - time.time() < _SOON:
        return warning("tls.validity", "certificate", f"it expires on {day}; want two weeks", _RENEW)
    return ok("tls.validity", "certificate", f"key and certificate are a pair; it is valid until {day}")


def _shown(tls: Tls) -> str:
    """Return the end of the certificate's validity, as a client sees it who shakes hands with such a server."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    # The certificate itself is what is trusted, whoever has signed it.
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cadata=tls.certificate.decode("ascii", errors="replace"))
    for context in (server, client):
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with _in_memory(tls.certificate) as certificate, _in_memory(tls.key) as key:
        server.load_cert_chain(certificate, key, password="")
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)
    # Each has something to say at most three times.
    for _ in range(3):
        are_done = [_is_done(end) for end in ends]
        if all(are_done):
            break
    found = ends[0].getpeercert() or {}
    return str(found.get("notAfter"))


def _is_done(end: ssl.SSLObject) -> bool:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """Give content a path, as OpenSSL wants one, and keep it from every disk."""
    with os.fdopen(os.memfd_create("pem"), "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"
