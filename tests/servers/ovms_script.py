"""Run one call of Intel's ovmsclient and write down what came of it. Started by ovms_client.py, in a process that
sees the standard library and ovmsclient's own directory, and nothing of Decant's environment."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(packages: str, directory: Path) -> None:
    sys.path.insert(0, packages)
    call = json.loads((directory / "call.json").read_text())
    try:
        answer = run(call, directory)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the client told its user
        answer = {"error": type(error).__name__, "message": str(error)}
    (directory / "answer.json").write_text(json.dumps(answer))


def run(call: dict[str, Any], directory: Path) -> dict[str, Any]:
    import ovmsclient

    makers = {"grpc": ovmsclient.make_grpc_client, "http": ovmsclient.make_http_client}
    client = makers[call["transport"]](call["address"], call["tls"])
    whom = {"model_name": call["model"], "model_version": call["version"], "timeout": call["timeout"]}
    if call["method"] == "predict":
        return {"outputs": predict(client, call["inputs"], whom, directory)}
    return {"result": getattr(client, call["method"])(**whom)}


def predict(client: Any, names: list[str], whom: dict[str, Any], directory: Path) -> list[str]:
    """Leave the output arrays in outputs.npz, in the order of the names returned."""
    import numpy as np

    with np.load(directory / "inputs.npz") as inputs:
        outputs = client.predict({name: inputs[f"arr_{i}"] for i, name in enumerate(names)}, **whom)
    if not isinstance(outputs, dict):
        outputs = {"": outputs}
    # Strings come as arrays of objects, which only pickle could write.
    arrays = [array.astype("S") if array.dtype == object else array for array in outputs.values()]
    np.savez(directory / "outputs.npz", *arrays)
    return list(outputs)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
