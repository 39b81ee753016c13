"""Fixtures that everything shares, and the rule that no test leaves a thread behind."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.azurite import IS_INSTALLED, NEEDS_AZURITE, Azurite, azurite
from tests.servers.fake_gcs import FakeGcs, fake_gcs
from tests.servers.seaweedfs import SeaweedFS, seaweedfs

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "examples" / "digits"
PERSONAL = ("DECANT_", "AWS_", "S3_", "AZURE_", "GOOGLE_", "GCLOUD_", "CLOUDSDK_", "IDENTITY_", "MSI_")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fail-on-skip", action="store_true", help="fail if any test was skipped, as CI does")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the files that run containers over all others.

    They take longest and wait for each other. Together and at the end, as the smallest files, they would run when
    nothing else is left to.
    """
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    slow = [path for path, tests in files.items() if any(test.get_closest_marker("container") for test in tests)]
    order = [path for path in files if path not in slow]
    step = len(order) // (len(slow) + 1) + 1
    for i, path in enumerate(slow):
        order.insert(i * step, path)
    items[:] = [test for path in order for test in files[path]]


def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.getoption("--fail-on-skip") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def no_thread_outlives_its_test() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 5
    # Not by joining them, as one that is just about to start cannot be joined.
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert left == set()


class _Loops(asyncio.DefaultEventLoopPolicy):
    """Remembers the event loops that are made: Mangum makes some and closes none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[asyncio.AbstractEventLoop] = []

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        loop = super().new_event_loop()
        self.made.append(loop)
        return loop


@pytest.fixture(scope="session", autouse=True)
def loops_are_closed_at_the_end() -> Iterator[None]:
    """No loop that one test has left is found unclosed in the middle of another."""
    policy = _Loops()
    asyncio.set_event_loop_policy(policy)
    yield
    asyncio.set_event_loop_policy(None)
    for loop in policy.made:
        loop.close()


@pytest.fixture(autouse=True)
def no_settings_of_the_developers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that read settings or credentials in this process see none but those they set."""
    for name in os.environ:
        if name.startswith(PERSONAL) or name in ("PORT", "STORAGE_EMULATOR_HOST"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("CLOUDSDK_CONFIG", os.devnull)
    monkeypatch.setenv("NO_GCE_CHECK", "true")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """A SeaweedFS with the digits model at ``s3://models/digits``, which its reader may read."""
    with seaweedfs(tmp_path_factory.mktemp("s3"), readable_bucket="models") as server:
        server.create_bucket("models")
        server.put_tree("models", "digits", DIGITS)
        yield server


@pytest.fixture(scope="session")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGcs]:
    """A fake-gcs-server with the digits model at ``gs://models/digits``."""
    with fake_gcs(tmp_path_factory.mktemp("gcs")) as server:
        server.put_tree("models", "digits", DIGITS)
        yield server


@pytest.fixture(scope="session")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """An Azurite with the digits model at ``az://models/digits``. Tests that use it are marked ``node``."""
    if not IS_INSTALLED:
        pytest.skip(NEEDS_AZURITE)
    with azurite(tmp_path_factory.mktemp("azure")) as server:
        server.put_tree("models", "digits", DIGITS)
        yield server
