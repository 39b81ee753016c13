"""The credentials that AWS gives to a container: ECS, EKS Pod Identity, and Lambda with SnapStart.

They are asked for at an address that the environment names, with a token that it names, too.
https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from obstore.store import S3Credential

RELATIVE_URI = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"
FULL_URI = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
TOKEN = "AWS_CONTAINER_AUTHORIZATION_TOKEN"
TOKEN_FILE = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"
_ECS = "http://169.254.170.2"
_HTTP_HOSTS = ("localhost", "127.0.0.1", "::1", "169.254.170.2", "169.254.170.23", "fd00:ec2::23")
"""Which may be asked without TLS: the machine itself, ECS's agent and EKS's."""
_TIMEOUT = 2.0


class ContainerCredentials:
    """Called for the credentials, each time that they are about to expire."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """
        Raises:
            ValueError: the environment names no address, or one to which no token should be sent.
        """
        relative = environ.get(RELATIVE_URI)
        self._url = urlsplit(f"{_ECS}{relative}" if relative else environ.get(FULL_URI, ""))
        if self._url.scheme != "https" and (self._url.scheme != "http" or self._url.hostname not in _HTTP_HOSTS):
            raise ValueError(f"{FULL_URI} is no https URL, nor one of the machine's own")
        self._token = environ.get(TOKEN, "")
        self._token_file = environ.get(TOKEN_FILE)

    def __call__(self) -> S3Credential:
        found = self._ask()
        try:
            expiration = found.get("Expiration")
            return {
                "access_key_id": found["AccessKeyId"],
                "secret_access_key": found["SecretAccessKey"],
                # Of keys that do not expire there is none.
                "token": found.get("Token"),
                "expires_at": datetime.fromisoformat(expiration) if expiration else None,
            }
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            # Not what it has, as there may be half a key in it.
            raise OSError(f"the container's credentials are not what they should be: {type(exc).__name__}") from exc

    def _ask(self) -> Any:
        # Read each time: EKS replaces it.
        token = Path(self._token_file).read_text().strip() if self._token_file else self._token
        connect = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        with closing(connect(self._url.hostname or "", self._url.port, timeout=_TIMEOUT)) as connection:
            path = f"{self._url.path or '/'}{'?' if self._url.query else ''}{self._url.query}"
            connection.request("GET", path, headers={"Authorization": token} if token else {})
            answer = connection.getresponse()
            body = answer.read()
        if answer.status != 200:
            raise OSError(f"the container's credentials are answered with {answer.status} {answer.reason}")
        return json.loads(body)
