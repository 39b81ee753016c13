"""The try-out as containers: podman-compose runs the file with Decant's real image.

The S3 server's own image is in a registry that a test does not reach, so the same server in an image of that name takes
its place. And there are no bridged networks here: all containers share one network namespace without a way out of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.infra import compose_file, containers
from tests.infra.compose_file import NEEDS_TOOLS, PATH, TOOLS
from tests.servers import tool

missing = containers.whats_missing() or ("" if TOOLS.is_dir() else NEEDS_TOOLS)
pytestmark = [
    pytest.mark.container,
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing), reason=missing),
    pytest.mark.timeout(900),  # the first build downloads a Debian and OpenVINO
]

STORE = "docker.io/chrislusf/seaweedfs:4.48"


class Project(NamedTuple):
    name: str
    file: Path

    def compose(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        flags = ("--no-ansi", "--in-pod=false", "--project-name", self.name, "--file", str(self.file))
        env = {**containers.environment(), "PYTHONPATH": str(TOOLS)}
        return subprocess.run(
            [sys.executable, "-m", "podman_compose", *flags, *arguments],
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, service: str) -> None:
        done = self.compose("up", "--detach", service)
        assert done.returncode == 0, done.stdout + done.stderr

    def exit_code(self, service: str, timeout: float = 60) -> int:
        """Wait for a job to end."""
        deadline = time.monotonic() + timeout
        while True:
            state = json.loads(containers.podman("inspect", self.container(service)).stdout)[0]["State"]
            if state["Status"] == "exited":
                return int(state["ExitCode"])
            assert time.monotonic() < deadline, containers.podman("logs", self.container(service)).stdout
            time.sleep(0.1)

    def container(self, service: str) -> str:
        return f"{self.name}_{service}_1"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with containers.built_image() as image:
        make_store_image()
        file = tmp_path_factory.mktemp("compose") / "compose.yaml"
        document = compose_file.parse(PATH.read_text(), {"DECANT_IMAGE": image})
        # JSON, in which the "no" of a restart policy is a text to every reader of YAML.
        file.write_text(json.dumps(as_run_here(document, file.with_name("hosts"))))
        found = Project(f"decant-test-{uuid.uuid4().hex[:8]}", file)
        try:
            found.start("s3")
            found.start("upload")
            assert found.exit_code("upload") == 0
            found.start("decant")
            yield found
        finally:
            found.compose("--profile", "client", "down", "--timeout", "0", "--volumes")


def as_run_here(document: dict[str, Any], hosts: Path) -> dict[str, Any]:
    hosts.write_text(f"127.0.0.1 localhost {' '.join(document['services'])}\n")
    for name, service in document["services"].items():
        for field in ("build", "networks", "ports"):
            service.pop(field, None)
        service["network_mode"] = "none" if name == "s3" else "service:s3"
        # Of docker 25 and podman 4.4.
        service.get("healthcheck", {}).pop("start_interval", None)
        # podman 4.3 goes on waiting for what has ended, so the test does one after the other.
        service.pop("depends_on", None)
        service["volumes"] = [
            f"{hosts}:/etc/hosts:ro",
            *(in_full(volume) for volume in service.get("volumes", ())),
        ]
    del document["networks"]
    return document


def in_full(volume: str) -> str:
    source, rest = volume.split(":", 1)
    return f"{(PATH.parent / source).resolve()}:{rest}"


def make_store_image() -> None:
    if not containers.podman("image", "exists", STORE, check=False).returncode:
        return
    weed = tool("servers/bin/weed")
    script = (
        f'c=$(buildah from scratch) && buildah copy -q "$c" {weed} /usr/bin/weed && buildah commit -q --rm "$c" {STORE}'
    )
    subprocess.run(
        ["/bin/sh", "-c", script], env=containers.environment(), check=True, capture_output=True, timeout=120
    )


def test_the_client_gets_its_sevens(project: Project) -> None:
    done = project.compose("--profile", "client", "run", "--rm", "client")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["REST: the picture shows a 7", "gRPC: the picture shows a 7"]


def test_the_upload_has_ended_well(project: Project) -> None:
    assert project.exit_code("upload") == 0
    assert "uploaded s3://models/digits/1/model.xml" in containers.podman("logs", project.container("upload")).stdout


def test_the_health_check_passes_in_the_container(project: Project) -> None:
    assert containers.podman("healthcheck", "run", project.container("decant"), check=False).returncode == 0


@pytest.mark.parametrize("service", ["decant", "s3"])
def test_nothing_of_it_is_root_or_can_become_so(project: Project, service: str) -> None:
    [status] = containers.podman("inspect", "--format", "{{.State.Pid}}", project.container(service)).stdout.split()
    facts = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{status}/status").read_text().splitlines() if ":\t" in line
    )
    assert facts["Uid"].split() == ["10001"] * 4
    assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0
    assert facts["NoNewPrivs"] == "1"


def test_its_budgets_are_of_the_limits_in_the_file(project: Project) -> None:
    script = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8501/v1/cache').read().decode())"
    found = containers.podman("exec", project.container("decant"), "python", "-c", script).stdout
    # 256 MiB of tmpfs, and 40 percent of 1 GiB, as that disk is memory.
    assert '"budget": 268435456' in found or '"budget":268435456' in found
    assert str(int(0.4 * (1 << 30))) in found
