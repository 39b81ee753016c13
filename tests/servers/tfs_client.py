"""TensorFlow Serving's own client: tensorflow-serving-api on the real TensorFlow, in a process of its own.

Importing TensorFlow takes seconds, so one process asks everything that `tfs_client_script` has in its tables.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.servers import ROOT
from tests.servers.processes import clean_environment

PACKAGES = ROOT / ".tools" / "tfserving"
# Made last.
IS_INSTALLED = (PACKAGES / ".installed").exists()
NEEDS_TFSERVING = "needs TensorFlow Serving's client and TensorFlow: run infra/ci/install.sh"

_SCRIPT = Path(__file__).with_name("tfs_client_script.py")
_TIMEOUT = 50.0


def ask_everything(directory: Path, **call: Any) -> dict[str, Any]:
    """Return what came of each case, by its name.

    Args:
        directory: for its files.
        call: what the script's `main` says.
    """
    (directory / "call.json").write_text(json.dumps(call))
    argv: list[str | Path] = [sys.executable, "-I", "-S", _SCRIPT, PACKAGES, directory]
    env = clean_environment({"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"})
    child = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    if child.returncode:
        raise RuntimeError(f"TensorFlow Serving's client ended with {child.returncode}: {child.stderr[-4000:]}")
    results: dict[str, Any] = json.loads((directory / "results.json").read_text())
    return results
