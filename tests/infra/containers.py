"""The image, really built and really run: buildah and podman as root, on a machine that has no container engine.

What they store lies under ``build/containers``, away from the images of whoever runs the tests.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers import ROOT
from tests.servers.processes import Process

STORE = ROOT / "build" / "containers"
IMAGE = "localhost/decant:test"
PROGRAMS = ("buildah", "podman", "runc", "skopeo", "mmdebstrap")

BASE_IMAGE = os.environ.get("DECANT_TEST_PYTHON_IMAGE", "")
"""What the Dockerfile builds on, pulled if need be. Empty: Debian's own Python, for where no registry is reached."""
BASE_SCRIPT = ROOT / "infra" / "ci" / "base_image.sh"
# By what makes it, so that a store that is kept does not keep an old one.
DEBIAN_BASE = f"localhost/python:debian-{hashlib.sha256(BASE_SCRIPT.read_bytes()).hexdigest()[:12]}"

# Bridged networks need iptables, and raising a limit needs a capability that a sandbox may withhold. crun cannot
# work with the mixed cgroup hierarchies that some machines still have; runc can.
CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=8192:8192", "nproc=4096:4096"]
netns = "host"
http_proxy = false
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PIP_CERTIFICATES = "/etc/pip-certificates.crt"

GZIP = ("--dest-compress", "--dest-compress-format=gzip")

# What the strictest platforms leave a container: nothing to write to but /tmp, no privilege, a memory limit.
MEMORY = 512 << 20
TMPFS = 64 << 20
CONFINED = (
    "--read-only",
    f"--tmpfs=/tmp:size={TMPFS},mode=1777",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    f"--memory={MEMORY}",
    f"--memory-swap={MEMORY}",
)


def whats_missing() -> str:
    """Say what this machine needs before it can build and run the image; nothing if it can."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"needs {', '.join(absent)}: run infra/ci/install.sh as root, or apt-get install {' '.join(absent)}"
    return "" if os.geteuid() == 0 else "needs root, to build and run containers"


@dataclass(frozen=True)
class Container:
    name: str
    process: Process

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        return podman("exec", self.name, *command, check=False)


@contextlib.contextmanager
def built_image() -> Iterator[str]:
    """Build the Dockerfile as it stands; yields the image's name. Unchanged steps come from the last build."""
    with _store():
        # One after the other, as the second finds what the first has built.
        with _locked("building", fcntl.LOCK_EX):
            _make_base()
            build(IMAGE)
        yield IMAGE


def build(tag: str, *options: str, directory: Path = ROOT) -> None:
    """Build the Dockerfile of a directory. The store must be in use, as it is within `built_image`."""
    base = BASE_IMAGE or DEBIAN_BASE
    arguments = ["--isolation=chroot", "--format=docker", "--layers", "--force-rm", f"--build-arg=PYTHON_IMAGE={base}"]
    # pip may have to trust a proxy of the machine's; no other step sees these files where it would look for its own.
    for source, target in ((_pip_conf(), "/etc/pip.conf"), (CERTIFICATES, PIP_CERTIFICATES)):
        arguments.append(f"--volume={source}:{target}:ro")
    _call(
        "buildah", "build", *arguments, *options, *([] if BASE_IMAGE else ["--pull-never"]), f"--tag={tag}", directory
    )


def run_python(image: str, *arguments: str, options: Sequence[str] = CONFINED) -> str:
    """Run the image's Python and return what it wrote to standard output."""
    return podman("run", "--rm", "--no-healthcheck", "--entrypoint=python", *options, image, *arguments).stdout


def podman(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return _call("podman", *arguments, check=check)


@contextlib.contextmanager
def running(image: str, *command: str, log: Path, options: Sequence[str] = CONFINED) -> Iterator[Container]:
    """Run ``command`` in a container as a platform would; kill it at the end if it still runs."""
    name = f"decant-test-{uuid.uuid4().hex[:12]}"
    argv = ["podman", "run", "--rm", f"--name={name}", "--no-healthcheck", *options, image, *command]
    try:
        with Process(argv, log, env=environment()) as process:
            yield Container(name, process)
    finally:
        podman("rm", "--force", "--ignore", "--time=0", name)


def compressed_layers(image: str, directory: Path) -> list[int]:
    """Return the size of each layer, lowest first, as a registry would hold it and a platform would pull it."""
    layout = directory / "image"
    _call("skopeo", "--insecure-policy", "copy", "--quiet", f"containers-storage:{image}", f"dir:{layout}", *GZIP)
    manifest = json.loads((layout / "manifest.json").read_text())
    shutil.rmtree(layout)
    return [layer["size"] for layer in manifest["layers"]]


def inspected(image: str) -> dict[str, Any]:
    """Return what the engine says of an image: its configuration, its layers by digest."""
    found: dict[str, Any] = json.loads(podman("image", "inspect", image).stdout)[0]
    return found


def _configure() -> None:
    storage = {"driver": "overlay", "graphroot": str(STORE / "graph"), "runroot": str(STORE / "run")}
    settings = "[storage]\n" + "".join(f'{key} = "{value}"\n' for key, value in storage.items())
    for name, text in (("containers.conf", CONTAINERS_CONF), ("storage.conf", settings)):
        path = STORE / name
        # Somebody may be reading it.
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


@contextlib.contextmanager
def _store() -> Iterator[None]:
    """Use the store, as other processes of tests may do meanwhile; the last one out unmounts it."""
    STORE.mkdir(parents=True, exist_ok=True)
    with _locked("users", fcntl.LOCK_SH) as lock:
        _configure()
        try:
            yield
        finally:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _unmount()


@contextlib.contextmanager
def _locked(name: str, operation: int) -> Iterator[int]:
    lock = os.open(STORE / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, operation)
        yield lock
    finally:
        os.close(lock)


def _unmount() -> None:
    # The engines leave their storage mounted, perhaps more than once, and what is mounted cannot be removed.
    while not _call("umount", STORE / "graph" / "overlay", check=False).returncode:
        pass


def _make_base() -> None:
    if not BASE_IMAGE:
        _call(BASE_SCRIPT, DEBIAN_BASE)


def _pip_conf() -> Path:
    path = STORE / "pip.conf"
    path.write_text(f"[global]\ncert = {PIP_CERTIFICATES}\n")
    return path


def environment() -> dict[str, str]:
    """Return what makes the engines use the store of the tests."""
    # What runs in a container gets none of this; what builds one may need the machine's proxy.
    files = {
        "CONTAINERS_CONF": str(STORE / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(STORE / "storage.conf"),
    }
    return {**os.environ, **files}


def _call(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if check and done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        raise RuntimeError(f"{' '.join(map(str, command))} failed with exit code {done.returncode}:\n{tail}")
    return done
