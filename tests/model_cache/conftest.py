"""Who this process is to S3."""

from __future__ import annotations

from collections.abc import Callable

import boto3
import pytest

from tests.servers.seaweedfs import Credentials

BecomeS3User = Callable[[Credentials], None]


@pytest.fixture(scope="session")
def sessions() -> dict[Credentials, boto3.Session]:
    return {}


@pytest.fixture
def become(sessions: dict[Credentials, boto3.Session], monkeypatch: pytest.MonkeyPatch) -> BecomeS3User:
    """Let the SDK find these credentials, and no region and no endpoint."""

    def become(credentials: Credentials) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", credentials.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", credentials.secret_key)
        # The SDK keeps the first credentials it has found for as long as the process lives, so each gets a session.
        # Not a new one for each test: that reads a megabyte of JSON.
        if credentials not in sessions:
            sessions[credentials] = boto3.Session()
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", sessions[credentials])

    return become
