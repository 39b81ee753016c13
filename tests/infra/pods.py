"""What a kubelet does with a container: its arguments, its volumes and its probes, here on this machine."""

from __future__ import annotations

import contextlib
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.servers.decant import DECANT, Decant
from tests.servers.processes import Process, clean_environment


@contextlib.contextmanager
def container(
    directory: Path,
    arguments: Sequence[str],
    places: Mapping[str, Path],
    rest_port: int = 0,
    grpc_port: int = 0,
    env: Mapping[str, str] | None = None,
) -> Iterator[Decant]:
    """Run a container's arguments, as the image's entry point would, with directories for its mounts."""
    here = [at_places(one, places) for one in arguments]
    local = ["--rest_bind_address=127.0.0.1", "--grpc_bind_address=127.0.0.1"]
    bound = local if rest_port or grpc_port else []
    directory.mkdir(parents=True, exist_ok=True)
    with Process(
        [*DECANT, *here, *bound], directory / "decant.log", env=clean_environment(env), cwd=directory
    ) as process:
        yield Decant(process, rest_port, grpc_port)


def at_places(argument: str, places: Mapping[str, Path]) -> str:
    name, equals, value = argument.partition("=")
    for mounted, directory in places.items():
        if value == mounted or value.startswith(f"{mounted}/"):
            return f"{name}{equals}{directory}{value.removeprefix(mounted)}"
    return argument


def probe(server: Decant, action: Mapping[str, Any]) -> bool:
    """Do a probe's ``httpGet`` as the kubelet does: 200 to 399 is success, and so is nothing else."""
    with contextlib.suppress(OSError):
        url = f"{server.rest_url}{action['path']}"
        with urllib.request.urlopen(url, timeout=3) as answer:
            return bool(200 <= answer.status < 400)
    return False


class AtomicVolume:
    """A ConfigMap's files as the kubelet keeps them: links to ``..data``, which is a link that is replaced.

    Kubernetes' pkg/volume/util/atomic_writer.go.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._count = 0
        directory.mkdir()

    def write(self, files: Mapping[str, str]) -> None:
        self._count += 1
        old = (self.directory / "..data").readlink() if self._count > 1 else None
        new = self.directory / f"..2026_11_22_00_00_00.{self._count}"
        new.mkdir()
        for name, text in files.items():
            (new / name).write_text(text)
        link = self.directory / "..data_tmp"
        link.symlink_to(new.name)
        link.rename(self.directory / "..data")
        for name in files:
            if not (self.directory / name).is_symlink():
                (self.directory / name).symlink_to(f"..data/{name}")
        if old is not None:
            for file in (self.directory / old).iterdir():
                file.unlink()
            (self.directory / old).rmdir()
