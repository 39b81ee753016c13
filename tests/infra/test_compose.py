"""The try-out: that compose understands it, what its containers may do, and that its commands do what it says."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import botocore.exceptions
import pytest

from handlers.settings import Settings
from tests.infra import compose_file
from tests.infra.compose_file import NEEDS_TOOLS, PATH, TOOLS, argv, mounts, run_tool
from tests.servers import ROOT, tool
from tests.servers.processes import Process, clean_environment, free_port
from tests.servers.seaweedfs import Credentials

COMPOSE = compose_file.parse(PATH.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
HERE = PATH.parent
IDENTITIES = {
    found["credentials"][0]["accessKey"]: found
    for found in json.loads((HERE / "identities.json").read_text())["identities"]
}

needs_tools = pytest.mark.skipif(not TOOLS.is_dir(), reason=NEEDS_TOOLS)


@needs_tools
def test_it_is_a_compose_file_to_the_letter() -> None:
    script = "import sys, compose_spec; compose_spec.PyCompose.from_json(sys.stdin.read())"
    done = run_tool("-c", script, text=json.dumps(COMPOSE))
    assert done.returncode == 0, done.stderr
    wrong = json.dumps(COMPOSE).replace('"stop_grace_period"', '"stop_grace"')
    assert run_tool("-c", script, text=wrong).returncode != 0


@needs_tools
def test_what_a_linter_finds_is_known() -> None:
    done = run_tool("-m", "compose_lint", "check", "--format", "json", str(PATH))
    found = json.loads(done.stdout)
    findings = found["findings"] if isinstance(found, dict) else found
    # Keys of a server that has no port on this machine, with digits in it; and images by tag, not by digest.
    assert {finding["rule_id"] for finding in findings} == {"CL-0020", "CL-0004", "CL-0019"}
    assert {finding["service"] for finding in findings if finding["rule_id"] == "CL-0020"} == {"decant", "upload"}


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    # Nobody but this machine is answered, and nothing of this machine can be written to.
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert all(volume.endswith(":ro") for volume in service.get("volumes", ()))
    assert all(source.exists() for source in mounts(service, HERE).values())


def test_the_server_may_read_and_the_upload_may_write() -> None:
    actions = {}
    for name in ("decant", "upload"):
        environment = SERVICES[name]["environment"]
        identity = IDENTITIES[environment["AWS_ACCESS_KEY_ID"]]
        assert identity["credentials"][0]["secretKey"] == environment["AWS_SECRET_ACCESS_KEY"]
        actions[name] = set(identity["actions"])
    assert actions["decant"] == {"Read:models", "List:models"}
    assert actions["upload"] - actions["decant"] == {"Write:models"}
    assert len(IDENTITIES) == 2


def test_the_store_is_reached_by_those_two_alone() -> None:
    assert COMPOSE["networks"]["storage"]["internal"] is True
    assert {name for name, service in SERVICES.items() if "storage" in service["networks"]} == {
        "decant",
        "upload",
        "s3",
    }
    assert SERVICES["s3"]["networks"] == ["storage"]
    assert "ports" not in SERVICES["s3"]


def test_each_waits_for_what_it_needs() -> None:
    assert SERVICES["decant"]["depends_on"] == {"upload": {"condition": "service_completed_successfully"}}
    assert SERVICES["client"]["depends_on"] == {"decant": {"condition": "service_healthy"}}
    assert SERVICES["upload"]["depends_on"] == ["s3"]
    # A job that has ended is not started again.
    assert {SERVICES[name]["restart"] for name in ("upload", "client")} == {"no"}


def test_a_stop_leaves_time_for_requests_in_flight() -> None:
    assert int(SERVICES["decant"]["stop_grace_period"].removesuffix("s")) > Settings().shutdown_timeout


def test_metrics_are_scraped_and_shown() -> None:
    prometheus = compose_file.parse((HERE / "prometheus.yaml").read_text())
    [job] = prometheus["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["decant:8501"]}]
    assert SERVICES["decant"]["environment"]["DECANT_METRICS_ENABLE"] == "true"
    datasources = compose_file.parse((HERE / "grafana/datasources/prometheus.yaml").read_text())["datasources"]
    assert [(source["url"], source["type"]) for source in datasources] == [("http://prometheus:9090", "prometheus")]
    [provider] = compose_file.parse((HERE / "grafana/dashboards/decant.yaml").read_text())["providers"]
    mounted = mounts(SERVICES["grafana"], HERE)
    assert mounted[f"{provider['options']['path']}/decant.json"] == ROOT / "infra" / "grafana" / "decant.json"
    assert {"decant", "prometheus", "grafana"} <= {n for n, s in SERVICES.items() if "clients" in s["networks"]}


class TryOut(NamedTuple):
    """The services as processes: what they say of hosts and of paths in containers, as it is here."""

    directory: Path
    ports: Mapping[str, int]
    """By ``host:port`` in the file."""

    def here(self, name: str, text: str) -> str:
        places = {**mounts(SERVICES[name], HERE), "/data": self.directory / "data"}
        for target, source in sorted(places.items(), reverse=True):
            # Not what is behind the slashes of a URL.
            text = re.sub(rf"(?<![/\w]){target}", str(source), text)
        for host, port in self.ports.items():
            text = text.replace(host, f"127.0.0.1:{port}")
        return text

    def environment(self, name: str) -> dict[str, str]:
        said = {key: self.here(name, value) for key, value in SERVICES[name].get("environment", {}).items()}
        return clean_environment({"AWS_EC2_METADATA_DISABLED": "true", "CI": "true", **said})

    def run(self, name: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a job to its end."""
        _, *arguments = (self.here(name, part) for part in argv(SERVICES[name]))
        env = {**self.environment(name), **environment, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=50, check=False
        )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TryOut]:
    """The S3 server, by its own command but for its ports."""
    directory = tmp_path_factory.mktemp("compose")
    ports = {name: free_port(also=10_000) for name in ("s3", "master", "volume", "filer", "admin")}
    try_out = TryOut(directory, {"s3:8333": ports["s3"], "decant:8501": free_port(), "decant:8500": free_port()})
    (directory / "data").mkdir()
    program, *arguments = (try_out.here("s3", part) for part in argv(SERVICES["s3"]))
    assert program == "/usr/bin/weed"
    numbers = (f"-{name}.port={port}" for name, port in ports.items())
    command: list[str | Path] = [tool("servers/bin/weed"), *arguments, *numbers]
    with contextlib.ExitStack() as stack:
        stack.callback(remove_sockets, ports)
        stack.enter_context(Process(command, directory / "weed.log", env=clean_environment(), cwd=directory))
        yield try_out


def remove_sockets(ports: Mapping[str, int]) -> None:
    for port in (*ports.values(), *(port + 10_000 for port in ports.values())):
        for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            path.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def uploaded(store: TryOut) -> TryOut:
    done = store.run("upload")
    assert done.returncode == 0, done.stderr
    # Only what belongs to a version.
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == [
        "uploaded s3://models/digits/1/model.bin",
        "uploaded s3://models/digits/1/model.xml",
    ]
    return store


def test_the_client_is_told_that_it_is_a_seven(uploaded: TryOut, tmp_path: Path) -> None:
    environment = uploaded.environment("decant") | {
        "DECANT_REST_PORT": str(uploaded.ports["decant:8501"]),
        "DECANT_PORT": str(uploaded.ports["decant:8500"]),
        "DECANT_CACHE_DIR": str(tmp_path / "cache"),
    }
    kind, *check = SERVICES["decant"]["healthcheck"]["test"]
    assert (kind, check[0]) == ("CMD", "python")
    port = str(uploaded.ports["decant:8501"])
    check = [sys.executable, *(part.replace("127.0.0.1:8501", f"127.0.0.1:{port}") for part in check[1:])]
    assert subprocess.run(check, capture_output=True, check=False, timeout=20).returncode != 0
    with Process([sys.executable, "-m", "handlers.cli"], tmp_path / "log", env=environment, cwd=ROOT) as server:
        done = uploaded.run("client")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines() == ["REST: the picture shows a 7", "gRPC: the picture shows a 7"]
        # By then it is ready, and compose would know.
        assert subprocess.run(check, capture_output=True, check=False, timeout=20).returncode == 0
        assert server.terminate() == 0


def test_decant_cannot_write_to_its_bucket_nor_see_another(uploaded: TryOut) -> None:
    environment = SERVICES["decant"]["environment"]
    endpoint = f"http://127.0.0.1:{uploaded.ports['s3:8333']}"
    keys = Credentials(environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"], endpoint)
    with contextlib.closing(keys.client()) as client:
        assert client.list_objects_v2(Bucket="models", Prefix="digits/")["KeyCount"] == 2
        with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
            client.put_object(Bucket="models", Key="digits/2/model.xml", Body=b"")
        with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
            client.list_objects_v2(Bucket="others")


def test_an_upload_of_no_model_says_so(store: TryOut, tmp_path: Path) -> None:
    script = mounts(SERVICES["upload"], HERE)["/upload.py"]
    for arguments, complaint in (
        ((str(tmp_path), "s3://models/m"), "no version of a model below"),
        ((str(tmp_path), "models/m"), "want s3://bucket/prefix"),
        ((), "usage: "),
    ):
        done = subprocess.run(
            [sys.executable, script, *arguments], env=os.environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert complaint in done.stderr
        assert "Traceback" not in done.stderr


def test_a_client_of_a_model_that_is_not_there_says_so_in_a_line(uploaded: TryOut, tmp_path: Path) -> None:
    script = mounts(SERVICES["client"], HERE)["/client.py"]
    port = free_port()
    body = ROOT / "examples" / "digits" / "seven.json"
    environment = uploaded.environment("decant") | {
        "DECANT_REST_PORT": str(port),
        "DECANT_PORT": "0",
        "DECANT_CACHE_DIR": str(tmp_path / "cache"),
    }
    with Process([sys.executable, "-m", "handlers.cli"], tmp_path / "log", env=environment, cwd=ROOT):
        done = subprocess.run(
            [sys.executable, script, f"http://127.0.0.1:{port}", "127.0.0.1:1", "other", body],
            env={**clean_environment(), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("no prediction of 'other' from ")
