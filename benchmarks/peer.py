"""MLServer, a peer in Python: the Open Inference Protocol, OpenVINO in a runtime of ten lines.

Over REST it speaks JSON alone, without binary tensors; over gRPC it takes and gives raw contents.
"""

from __future__ import annotations

import http.client
import json
import shutil
from contextlib import closing, suppress
from pathlib import Path
from typing import Self

from benchmarks.children import HERE, QUIET
from benchmarks.tasks import Task
from tests.servers import ROOT
from tests.servers.processes import Process, clean_environment, free_port

COMMAND = ROOT / ".tools" / "mlserver" / "bin" / "mlserver"


def why_not() -> str | None:
    """Return why it cannot run here, or None."""
    return None if COMMAND.exists() else f"{COMMAND.relative_to(ROOT)} is missing: 'make bench' installs it"


class MLServer(Process):
    """MLServer with the task's model from the disk, ready. It infers in its event loop, without further processes."""

    def __init__(self, task: Task, directory: Path) -> None:
        self.port, self.grpc_port, metrics = (free_port() for _ in range(3))
        settings = {
            "host": "127.0.0.1",
            "http_port": self.port,
            "grpc_port": self.grpc_port,
            "metrics_port": metrics,
            "parallel_workers": 0,
            "debug": False,
        }
        model = {
            "name": task.model,
            "implementation": "mlserver_model.OpenVino",
            "parameters": {"uri": str(task.xml)},
        }
        directory.mkdir()
        shutil.copy(HERE / "mlserver_model.py", directory)
        (directory / "settings.json").write_text(json.dumps(settings))
        (directory / "model-settings.json").write_text(json.dumps(model))
        env = clean_environment(QUIET)
        # Ours has a Decant in it.
        env.pop("PYTHONPATH", None)
        super().__init__([COMMAND, "start", directory], directory / "mlserver.log", env=env, cwd=directory)

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self.wait_until(self._is_ready, 60)
        except BaseException:
            self.kill()
            raise
        return self

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with closing(connection), suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == http.HTTPStatus.OK
        return False
