"""A real kube-apiserver over a real etcd, and nothing else: objects are checked and kept, and no pod ever runs."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.servers import ROOT
from tests.servers.processes import Process, clean_environment, free_port

PROGRAMS = ROOT / ".tools" / "kube"
IS_INSTALLED = (PROGRAMS / "kube-apiserver").exists() and (PROGRAMS / "etcd").exists()
NEEDS_KUBE_APISERVER = "needs kube-apiserver and etcd: run infra/ci/kube_apiserver.sh as root"

_TOKEN = "administrator-of-the-test"


class RefusedError(Exception):
    """The server's message, for a status of 400 or more."""


class KubeApiserver:
    """A running server of Kubernetes 1.20. ``kubeconfig`` is a file that clients take."""

    def __init__(self, port: int, directory: Path) -> None:
        self._port = port
        self._tls = ssl._create_unverified_context()
        self._kinds: dict[tuple[str, str], str] = {}
        self.kubeconfig = directory / "kubeconfig.json"
        cluster = {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": _TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        self.kubeconfig.write_text(json.dumps(config))

    def request(self, method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, timeout=30, context=self._tls)
        with contextlib.closing(connection):
            headers = {"Authorization": f"Bearer {_TOKEN}", "Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            answer = response.read()
        if response.status >= 400:
            raise RefusedError(json.loads(answer)["message"] if answer.startswith(b"{") else answer.decode())
        return json.loads(answer) if answer.startswith(b"{") else answer.decode()

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException, RefusedError):
            return bool(self.request("GET", "/readyz") == "ok")
        return False

    def create(self, document: dict[str, Any], *, dry_run: bool = False) -> Any:
        """Create an object, or have it checked and defaulted as if."""
        path = self._path(document["apiVersion"], document["kind"], document["metadata"].get("namespace"))
        return self.request("POST", path + ("?dryRun=All" if dry_run else ""), document)

    def get(self, api_version: str, kind: str, namespace: str, name: str = "") -> Any:
        """Return an object, or all of a kind."""
        return self.request("GET", self._path(api_version, kind, namespace) + (f"/{name}" if name else ""))

    def _path(self, api_version: str, kind: str, namespace: str | None) -> str:
        base = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
        if (api_version, kind) not in self._kinds:
            found = self.request("GET", base)["resources"]
            self._kinds |= {(api_version, one["kind"]): one["name"] for one in found if "/" not in one["name"]}
        if (api_version, kind) not in self._kinds:
            raise RefusedError(f"the server has no {kind} in {api_version}")
        return f"{base}/{f'namespaces/{namespace}/' if namespace else ''}{self._kinds[api_version, kind]}"


@contextlib.contextmanager
def kube_apiserver(directory: Path, timeout: float = 60) -> Iterator[KubeApiserver]:
    """Run a server that keeps everything in ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    key = directory / "service_accounts.key"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    (directory / "tokens.csv").write_text(f'{_TOKEN},admin,1,"system:masters"\n')
    etcd_port, peer_port, port = free_port(), free_port(), free_port()
    etcd = f"http://127.0.0.1:{etcd_port}"
    environ = clean_environment()
    with (
        Process(_etcd(directory, etcd, f"http://127.0.0.1:{peer_port}"), directory / "etcd.log", env=environ),
        Process(_apiserver(directory, etcd, port, key), directory / "kube-apiserver.log", env=environ) as process,
    ):
        server = KubeApiserver(port, directory)
        process.wait_until(server.is_ready, timeout)
        yield server


def _etcd(directory: Path, url: str, peer: str) -> list[str | Path]:
    return [
        PROGRAMS / "etcd",
        *("--data-dir", directory / "etcd"),
        *("--listen-client-urls", url, "--advertise-client-urls", url),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"),
        "--unsafe-no-fsync",
    ]


def _apiserver(directory: Path, etcd: str, port: int, key: Path) -> list[str | Path]:
    return [
        PROGRAMS / "kube-apiserver",
        f"--etcd-servers={etcd}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={directory / 'certificates'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--api-audiences=https://kubernetes.default.svc",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        f"--token-auth-file={directory / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.0.0.0/24",
        # It would wait for tokens that a controller makes, of which there is none.
        "--disable-admission-plugins=ServiceAccount",
    ]
