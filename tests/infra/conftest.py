"""What tests of several files look at, and takes seconds to make."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.infra.functions import GIVEN_OSLS, package


@pytest.fixture(scope="session")
def osls_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What osls makes of serverless.yml as it stands: CloudFormation."""
    return package(tmp_path_factory.mktemp("osls"), **GIVEN_OSLS)
