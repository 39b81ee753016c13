"""Deployment scripts, really run, with stand-ins for the clouds' commands that write down what they are told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.servers import ROOT

SHELLCHECK = ROOT / ".tools" / "lint" / "bin" / "shellcheck"
_STAND_IN = """\
#!{python}
import json, os, pathlib, sys
files = {{}}
for word in sys.argv[1:]:
    path = pathlib.Path(word.partition("=")[2] if word.startswith("--") else word.lstrip("@"))
    if path.is_file():
        files[path.name] = path.read_text()
with open(os.environ["COMMANDS"], "a") as log:
    log.write(json.dumps([pathlib.Path(sys.argv[0]).name, sys.argv[1:], files]) + "\\n")
for word, text in json.loads(os.environ["SAYING"]).items():
    if word in sys.argv:
        print(text)
sys.exit(any(word in sys.argv for word in os.environ["FAILING"].split()))
"""


class Command(NamedTuple):
    program: str
    words: Sequence[str]
    files: Mapping[str, str]
    """Texts of the files among them, by name."""


def run_script(
    script: Path,
    directory: Path,
    environ: Mapping[str, str],
    *,
    programs: Sequence[str],
    failing: str = "",
    saying: Mapping[str, str] | None = None,
) -> list[Command]:
    """Run a script and return what it has called.

    Args:
        script: with whatever it looks for beside it.
        directory: for the stand-ins.
        environ: what the user has set.
        programs: that there are stand-ins for.
        failing: words; a command with one of them fails.
        saying: what a command with a word prints.
    """
    tools = directory / "tools"
    tools.mkdir()
    for name in programs:
        (tools / name).write_text(_STAND_IN.format(python=sys.executable))
        (tools / name).chmod(0o755)
    log = directory / "commands"
    log.touch()
    variables = {"PATH": f"{tools}:{os.environ['PATH']}", "COMMANDS": str(log), "FAILING": failing}
    variables |= {"SAYING": json.dumps(saying or {}), **environ}
    done = subprocess.run(["sh", script], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [Command(*json.loads(line)) for line in log.read_text().splitlines()]


def find(commands: Sequence[Command], words: str) -> list[Command]:
    """Return the commands that begin so."""
    wanted = words.split()
    return [command for command in commands if [command.program, *command.words][: len(wanted)] == wanted]


def check_script(script: Path) -> None:
    """Fail if shellcheck finds anything."""
    if not SHELLCHECK.exists():
        pytest.skip("needs shellcheck in .tools/lint: infra/ci/install.sh")
    done = subprocess.run([SHELLCHECK, "--norc", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
