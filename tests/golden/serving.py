"""Servers of models that a config.json lists, or whatever a command line of OpenVINO Model Server says."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.golden.direct import EXACT
from tests.servers.decant import Decant, decant_serve
from tests.servers.processes import Process, clean_environment, free_port

EXACTLY = ("--plugin_config", json.dumps(EXACT))
"""What is below each model's own."""
MODULES = {"decant": "handlers.cli", "ovms": "handlers.ovms", "ie_serving": "handlers.ie_serving"}
START = 30.0


@contextmanager
def serving(directory: Path, models: Mapping[str, Mapping[str, Any]], *flags: str | Path) -> Iterator[Decant]:
    """Serve these: the name of each -> the other fields of its entry."""
    entries = [{"config": {"name": name, **fields}} for name, fields in models.items()]
    config = directory / "config.json"
    directory.mkdir(parents=True, exist_ok=True)
    config.write_text(json.dumps({"model_config_list": entries}))
    with decant_serve(directory, "--config_path", config, *EXACTLY, *flags, timeout=START) as server:
        yield server


@contextmanager
def started(
    directory: Path, line: Sequence[str], *, env: Mapping[str, str] | None = None, wait: bool = True
) -> Iterator[Decant]:
    """Run a command line, word by word, whose first word is one of `MODULES`, and nothing added to it.

    ``{port}`` and ``{rest_port}`` in it are ports that are free; a port that it does not have is 0 in the `Decant`.
    """
    ports = {name: free_port() for name in ("port", "rest_port") if any(f"{{{name}}}" in word for word in line)}
    # Not by str.format, as there is JSON in them.
    words = [_filled(word, ports) for word in line]
    argv = [sys.executable, "-m", MODULES[words[0]], *words[1:]]
    directory.mkdir(parents=True, exist_ok=True)
    # What a server may leave behind stays in the test's directory.
    environment = clean_environment({"TMPDIR": str(directory), **(env or {})})
    with Process(argv, directory / "server.log", env=environment, cwd=directory) as process:
        server = Decant(process, ports.get("rest_port", 0), ports.get("port", 0))
        if wait:
            server.wait_ready(START)
        yield server


def _filled(word: str, ports: Mapping[str, int]) -> str:
    for name, port in ports.items():
        word = word.replace(f"{{{name}}}", str(port))
    return word
