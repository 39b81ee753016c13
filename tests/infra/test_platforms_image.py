"""The image under Cloud Run's envelope, and Knative's: what their files say, as flags of a container engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handlers.deploy.to_cloud_run import WINDOW
from tests.infra import containers
from tests.infra.containers import running
from tests.infra.platforms import INFRA, SEVEN, Instance, decant_of, load, read_probe, variables_of
from tests.servers import ROOT
from tests.servers.processes import free_port

missing = containers.whats_missing()
pytestmark = [
    pytest.mark.container,
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing), reason=missing),
    pytest.mark.timeout(900),  # the first build downloads a Debian and OpenVINO
]

PORT = 8080
MODEL = f"--volume={ROOT / 'examples' / 'digits'}:/models/digits:ro"


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    with containers.built_image() as name:
        yield name


@contextlib.contextmanager
def contained(image: str, container: Any, log: Path, *options: str) -> Iterator[Instance]:
    """Run the image with a file's arguments, variables and limits, its model beside it."""
    port = free_port()
    arguments = [argument.replace(f"={PORT}", f"={port}") for argument in container["args"]]
    variables = {**variables_of(container), "DECANT_MODEL_PATH": "/models/digits", "PORT": str(port), "K_SERVICE": "x"}
    limits = container["resources"]["limits"]
    memory = f"{limits['memory'].removesuffix('Mi')}m"
    flags = [
        f"--memory={memory}",
        f"--memory-swap={memory}",
        f"--cpus={limits['cpu']}",
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
        MODEL,
        *(f"--env={name}={value}" for name, value in variables.items()),
        *options,
    ]
    with running(image, *arguments, log=log, options=flags) as one:
        yield Instance(one.process, {PORT: port})


def test_on_cloud_run_the_disk_is_memory_and_both_budgets_fit_the_limit(image: str, tmp_path: Path) -> None:
    revision = load(INFRA / "cloud_run" / "service.yaml")["spec"]["template"]["spec"]
    container = decant_of(revision["containers"])
    # Its root file system can be written to, and is no tmpfs to look at.
    with contained(image, container, tmp_path / "log") as one:
        one.wait_until_started(read_probe(container["startupProbe"], PORT))
        server = one.client(rest=PORT)
        assert server.post("/v1/models/digits:predict", SEVEN).body["predictions"][0]["digit"] == 7
        budgets = server.get("/v1/cache").body
        limit = 2048 << 20
        assert budgets["memory"]["budget"] == pytest.approx(0.4 * limit, abs=2)
        assert budgets["disk"]["budget"] <= 0.3 * limit + 2
        assert one.stop(WINDOW) == 0


def test_grpc_alone_is_probed_and_ended(image: str, tmp_path: Path) -> None:
    revision = load(INFRA / "cloud_run" / "service-grpc.yaml")["spec"]["template"]["spec"]
    container = decant_of(revision["containers"])
    with contained(image, container, tmp_path / "log") as one:
        one.wait_until_started(read_probe(container["startupProbe"], PORT))
        assert one.passes(read_probe(container["livenessProbe"], PORT))
        assert one.stop(WINDOW) == 0


def test_on_knative_nothing_but_the_volume_can_be_written_to(image: str, tmp_path: Path) -> None:
    revision = load(INFRA / "knative" / "service.yaml")["spec"]["template"]["spec"]
    container = decant_of(revision["containers"])
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"]
    options = ("--read-only", "--tmpfs=/tmp:size=64m,mode=1777", f"--user={security['runAsUser']}")
    with contained(image, container, tmp_path / "log", *options) as one:
        one.wait_until_started(read_probe(container["readinessProbe"], PORT)._replace(period=0.5, failures=60))
        server = one.client(rest=PORT)
        assert server.post("/v1/models/digits:predict", SEVEN).body["predictions"][0]["digit"] == 7
        assert server.get("/v1/cache").body["memory"]["budget"] == 1433 << 20
        assert one.stop(10) == 0
