"""The image as platforms run it: no root, nothing to write to but /tmp, a memory limit, signals that end it."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.infra import containers
from tests.infra.containers import CONFINED, Container, running
from tests.servers import ROOT, tool
from tests.servers.decant import Decant
from tests.servers.lambda_emulator import LambdaEmulator
from tests.servers.lambda_events import function_url, response_body
from tests.servers.processes import accepts_connections, free_port
from tests.servers.seaweedfs import SeaweedFS

missing = containers.whats_missing()
pytestmark = [
    pytest.mark.container,
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing), reason=missing),
    pytest.mark.timeout(900),  # the first build downloads a Debian and OpenVINO
]

MODEL = f"--volume={ROOT / 'examples' / 'digits'}:/models/digits:ro"
SEVEN = (ROOT / "examples" / "digits" / "seven.json").read_bytes()


class Server(NamedTuple):
    container: Container
    decant: Decant


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    with containers.built_image() as name:
        yield name


@pytest.fixture(scope="module")
def server(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    rest_port, grpc_port = free_port(), free_port()
    flags = serve_flags(rest_port, grpc_port)
    log = tmp_path_factory.mktemp("image") / "serve.log"
    with running(image, *flags, log=log, options=(*CONFINED, MODEL)) as container:
        decant = Decant(container.process, rest_port, grpc_port)
        # Not by its health endpoint, which may say so before gRPC listens.
        container.process.wait_until(lambda: "ready: " in decant.log(), timeout=60)
        yield Server(container, decant)


def serve_flags(rest_port: int, grpc_port: int) -> list[str]:
    """A command line as OVMS's users type it, on the loopback interface only."""
    ports = ["--rest_port", str(rest_port), "--port", str(grpc_port)]
    addresses = ["--rest_bind_address", "127.0.0.1", "--grpc_bind_address", "127.0.0.1"]
    return ["--model_name", "digits", "--model_path", "/models/digits", *ports, *addresses]


def test_the_digits_model_answers_over_rest(server: Server) -> None:
    answer = server.decant.post("/v1/models/digits:predict", SEVEN)
    assert answer.status == 200
    assert answer.body["predictions"][0]["digit"] == 7


def test_the_server_is_healthy_over_grpc(server: Server) -> None:
    with grpc.insecure_channel(server.decant.grpc_address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_process_1_is_python_and_not_root(server: Server) -> None:
    assert "python" in server.container.execute("readlink", "/proc/1/exe").stdout
    assert server.container.execute("id", "-u").stdout.strip() == "10001"


def test_only_tmp_can_be_written_to(server: Server) -> None:
    assert server.container.execute("touch", "/tmp/file").returncode == 0
    assert "Read-only file system" in server.container.execute("touch", "/opt/decant/file").stderr


def test_its_budgets_are_what_the_container_may_have(server: Server) -> None:
    found = server.decant.get("/v1/cache").body
    # 70 percent of the memory, of which the disk, a tmpfs, may take 30.
    assert found["memory"]["budget"] == pytest.approx(0.4 * containers.MEMORY, abs=2)
    assert found["disk"]["budget"] == pytest.approx(min(0.3 * containers.MEMORY, containers.TMPFS), abs=2)
    # Measured, so less than the upper bound that the load was admitted with.
    assert 0 < found["memory"]["used"] < 20 << 20


def test_the_health_check_finds_the_server_by_its_flags(server: Server, image: str) -> None:
    kind, *command = containers.inspected(image)["Healthcheck"]["Test"]
    assert kind == "CMD"
    done = server.container.execute(*command)
    assert (done.returncode, done.stderr) == (0, "")


def test_sigterm_ends_it_with_exit_code_0(image: str, tmp_path: Path) -> None:
    rest_port, grpc_port = free_port(), free_port()
    flags = serve_flags(rest_port, grpc_port)
    with running(image, *flags, log=tmp_path / "serve.log", options=(*CONFINED, MODEL)) as container:
        decant = Decant(container.process, rest_port, grpc_port)
        decant.wait_ready()
        assert decant.terminate() == 0


def test_a_failed_start_is_one_line_and_exit_code_3(image: str, tmp_path: Path) -> None:
    flags = ["--model_name", "digits", "--model_path", "/models/none", "--rest_port", str(free_port()), "--port", "0"]
    with running(image, *flags, log=tmp_path / "serve.log") as container:
        assert container.process.wait(timeout=60) == 3
        assert [line for line in container.process.log().splitlines() if "/models/none" in line]
        assert "Traceback" not in container.process.log()


def test_subcommands_reach_decant_and_any_user_can_run_them(image: str, tmp_path: Path) -> None:
    options = (*CONFINED, MODEL, "--user=4242:4242")
    with running(image, "inspect", "/models/digits", log=tmp_path / "inspect.log", options=options) as container:
        assert container.process.wait(timeout=60) == 0
        assert "probabilities" in container.process.log()


# runc's way to take /sys away, podman's for /dev/shm. An engine sets HOME itself, so a program in front unsets it.
BARE = ("--ipc=none", "--security-opt=mask=/sys", "--entrypoint=env")


def test_it_needs_neither_home_nor_shared_memory_nor_sys(image: str, tmp_path: Path) -> None:
    rest_port, grpc_port = free_port(), free_port()
    entrypoint = containers.inspected(image)["Config"]["Entrypoint"]
    command = ["-u", "HOME", *entrypoint, *serve_flags(rest_port, grpc_port)]
    with running(image, *command, log=tmp_path / "bare.log", options=(*CONFINED, *BARE, MODEL)) as container:
        decant = Decant(container.process, rest_port, grpc_port)
        decant.wait_ready()
        assert decant.post("/v1/models/digits:predict", SEVEN).body["predictions"][0]["digit"] == 7
        assert "HOME=" not in container.execute("sh", "-c", "cat /proc/1/environ").stdout
        assert container.execute("ls", "/sys").stdout == ""
        assert container.execute("test", "-e", "/dev/shm").returncode == 1


def documented(page: str, start: str) -> str:
    """Return the one block of a page that begins with a line."""
    text = (ROOT / "docs" / page).read_text()
    return start + text.split(f"\n{start}", 1)[1].split("```", 1)[0]


@pytest.fixture
def baked(image: str, s3: SeaweedFS, tmp_path: Path) -> Iterator[str]:
    """An image made as the documentation says, of a model in a bucket."""
    dockerfile = documented("deploy/docker.md", "FROM decant AS models").replace("FROM decant", f"FROM {image}")
    s3.put_tree("models", "vision/digits/1", ROOT / "examples" / "digits" / "1")
    s3.client().put_object(Bucket="models", Key="vision/digits/1/README.md", Body=b"No server reads this.")
    (tmp_path / "Dockerfile").write_text(dockerfile.replace("s3://my-models", "s3://models"))
    credentials = {
        "aws_access_key_id": s3.reader.access_key,
        "aws_secret_access_key": s3.reader.secret_key,
        "region": s3.reader.region,
        "endpoint_url": s3.endpoint,
    }
    lines = "".join(f"{name} = {value}\n" for name, value in credentials.items())
    (tmp_path / "credentials").write_text(f"[default]\n{lines}")
    tag = "localhost/decant:baked"
    secret = f"--secret=id=aws,src={tmp_path / 'credentials'}"
    containers.build(tag, secret, "--no-cache", directory=tmp_path)
    yield tag
    containers.podman("image", "rm", "--force", tag)


ASK = """
import sys, urllib.request
request = urllib.request.Request("http://127.0.0.1:8501/v1/models/digits:predict", data=sys.argv[1].encode())
print(urllib.request.urlopen(request, timeout=30).read().decode())
"""


def test_a_model_that_is_baked_in_is_served_without_a_network(baked: str, s3: SeaweedFS, tmp_path: Path) -> None:
    assert s3.reader.secret_key not in containers.podman("history", "--no-trunc", baked).stdout
    with running(baked, log=tmp_path / "baked.log", options=(*CONFINED, "--network=none")) as container:
        container.process.wait_until(lambda: "ready: " in container.process.log(), timeout=60)
        answer = container.execute("python", "-c", ASK, SEVEN.decode())
        assert json.loads(answer.stdout)["predictions"][0]["digit"] == 7, answer.stderr
        # Read where it lies: nothing is fetched, and nothing copied.
        assert container.execute("ls", "/tmp").stdout == ""
        assert container.execute("ls", "/models/digits", "/models/digits/1").stdout.split() == [
            *("/models/digits:", "1", "/models/digits/1:", "model.bin", "model.xml")
        ]


def test_a_directory_is_copied_into_an_image_as_documented(image: str, tmp_path: Path) -> None:
    dockerfile = tmp_path / "digits.dockerfile"
    copied = documented("deploy/docker.md", "FROM decant\nCOPY digits ")
    dockerfile.write_text(copied.replace("FROM decant", f"FROM {image}"))
    (command,) = documented("deploy/docker.md", "docker build -t digits -f ").splitlines()
    tag = "localhost/decant:copied"
    containers.build(tag, f"--file={dockerfile}", directory=ROOT / command.rpartition(" ")[2])
    try:
        answer = containers.podman("run", "--rm", "--no-healthcheck", *CONFINED, tag, "inspect", "/models/digits")
        assert "probabilities" in answer.stdout
    finally:
        containers.podman("image", "rm", "--force", tag)


@pytest.fixture
def function(image: str, s3: SeaweedFS, tmp_path: Path) -> Iterator[LambdaEmulator]:
    """The image as AWS's own emulator of the Lambda runtime runs it, its model in S3."""
    machine = {"aarch64": "arm64"}.get(platform.machine(), platform.machine())
    emulator = tool(f"servers/samcli/local/rapid/aws-lambda-rie-{machine}")
    runtime_port, invoke_port = free_port(), free_port()
    environ = {**s3.reader.env(), "DECANT_MODEL_NAME": "digits", "DECANT_MODEL_PATH": "s3://models/digits"}
    options = [
        *CONFINED,
        "--cpus=0.29",  # what Lambda lends to 512 MB
        *(f"--env={name}={value}" for name, value in environ.items()),
        f"--volume={emulator}:/emulator:ro",
        "--entrypoint=/emulator",
    ]
    addresses = [
        f"--runtime-api-address=127.0.0.1:{runtime_port}",
        f"--runtime-interface-emulator-address=127.0.0.1:{invoke_port}",
    ]
    entrypoint = containers.inspected(image)["Config"]["Entrypoint"]
    with running(image, *addresses, *entrypoint, log=tmp_path / "lambda.log", options=options) as container:
        container.process.wait_until(lambda: accepts_connections(invoke_port), timeout=60)
        yield LambdaEmulator(container.process, invoke_port)


def test_the_same_image_is_a_lambda_function(function: LambdaEmulator) -> None:
    headers = {"content-type": "application/json"}
    result = function.invoke(function_url("POST", "/v1/models/digits:predict", {}, headers, SEVEN))
    assert result.get("statusCode") == 200, function.log()
    assert json.loads(response_body(result))["predictions"][0]["digit"] == 7
