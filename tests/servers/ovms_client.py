"""Intel's ovmsclient, a TensorFlow Serving client that we did not write, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tests.servers import tool
from tests.servers.processes import clean_environment

Arrays = dict[str, npt.NDArray[Any]]

_SCRIPT = Path(__file__).with_name("ovms_script.py")
_START_UP = 20.0


class OvmsClientError(Exception):
    """The client raised. ``kind`` is the name of its exception's class, such as ModelNotFoundError."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message


@dataclass(frozen=True)
class OvmsClient:
    """A client of the server at ``address`` (host:port). Version 0 is its way to ask for the default version.

    ``tls`` has its names for files: server_cert_path, client_cert_path, client_key_path.
    """

    address: str
    transport: Literal["grpc", "http"] = "grpc"
    timeout: float = 10.0
    tls: Mapping[str, str] | None = None

    def predict(self, model: str, inputs: Mapping[str, npt.NDArray[Any]], version: int = 0) -> Arrays:
        """Return the outputs by name. Of a model with one output the client drops the name: it is "" here."""
        with tempfile.TemporaryDirectory() as scratch:
            directory = Path(scratch)
            # By position: npz members cannot have every name that a tensor can.
            np.savez(directory / "inputs.npz", *inputs.values())
            answer = self._run(directory, "predict", model, version, inputs=list(inputs))
            with np.load(directory / "outputs.npz") as outputs:
                return {name: outputs[f"arr_{i}"] for i, name in enumerate(answer["outputs"])}

    def metadata(self, model: str, version: int = 0) -> dict[str, Any]:
        """Return ``{"model_version": …, "inputs": {name: {"shape": […], "dtype": …}}, "outputs": …}``."""
        with tempfile.TemporaryDirectory() as scratch:
            result: dict[str, Any] = self._run(Path(scratch), "get_model_metadata", model, version)["result"]
            return result

    def status(self, model: str, version: int = 0) -> dict[int, dict[str, Any]]:
        """Return ``{"state": …, "error_code": …, "error_message": …}`` for each version."""
        with tempfile.TemporaryDirectory() as scratch:
            result = self._run(Path(scratch), "get_model_status", model, version)["result"]
            return {int(number): state for number, state in result.items()}

    def _run(self, directory: Path, method: str, model: str, version: int, **more: object) -> dict[str, Any]:
        call = {"address": self.address, "transport": self.transport, "timeout": self.timeout, "tls": self.tls}
        call |= {"method": method, "model": model, "version": version, **more}
        (directory / "call.json").write_text(json.dumps(call))
        # -I and -S leave the standard library only on its path: what ovmsclient pins must not meet what we pin.
        argv: list[str | Path] = [sys.executable, "-I", "-S", _SCRIPT, tool("ovmsclient"), directory]
        limit = _START_UP + self.timeout
        env = clean_environment()
        child = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=limit, check=False)
        if child.returncode:
            raise RuntimeError(f"the ovmsclient process ended with {child.returncode}: {child.stderr[-2000:]}")
        answer: dict[str, Any] = json.loads((directory / "answer.json").read_text())
        if "error" in answer:
            raise OvmsClientError(answer["error"], answer["message"])
        return answer
