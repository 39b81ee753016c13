"""docs/clients.md, run as it stands: each of its snippets prints the seven that its picture shows.

But for tensorflow-serving-api's, as it takes TensorFlow many seconds to be imported; test_tfs_client has that client.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import DIGITS, ROOT
from tests.servers import tool
from tests.servers.decant import Decant, decant_serve
from tests.servers.processes import clean_environment

PAGE = (ROOT / "docs" / "clients.md").read_text()
BLOCKS = re.findall(r"^```(\w+)(?: ([\w-]+))?\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SHELL = "".join(code for language, _, code in BLOCKS if language == "sh")
SCRIPTS = [(client, code) for language, client, code in BLOCKS if language == "python"]
PACKAGES = {"ovmsclient": "ovmsclient", "tritonclient": "openinference", "kserve": "openinference", "": ""}
TFSERVING = "tensorflow-serving-api"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decant]:
    model = ("--model_name", "digits", "--model_path", str(DIGITS))
    with decant_serve(tmp_path_factory.mktemp("server"), *model) as made:
        yield made


def run(argv: list[str], code: str, server: Decant, directory: Path, packages: Path | None = None) -> str:
    """Run a snippet with this server's ports and a directory of its own; return what it prints."""
    there = {"localhost:8501": f"127.0.0.1:{server.rest_port}", "localhost:8500": server.grpc_address}
    for own, other in {**there, "/tmp/": f"{directory}/"}.items():
        code = code.replace(own, other)
    env = {"PATH": "/usr/bin:/bin", "BIN": str(Path(sys.executable).parent)}
    if packages is not None:
        env["PYTHONPATH"] = str(packages)
    done = subprocess.run(
        [*argv, code], cwd=ROOT, env=clean_environment(env), capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_the_page_has_a_snippet_of_each_client() -> None:
    assert [client for client, _ in SCRIPTS] == ["", TFSERVING, "ovmsclient", "tritonclient", "tritonclient", "kserve"]
    assert set(re.findall(r"decant predict (\w+)", SHELL)) == {"http", "grpc", "examples"}


def test_what_is_typed_answers_the_seven(server: Decant, tmp_path: Path) -> None:
    # What the page says of $PWD holds where a developer's environment is; the tests' may be another.
    shell = SHELL.replace("$PWD/.venv/bin:", "$BIN:")
    assert shell != SHELL
    answers = run(["sh", "-euc"], shell, server, tmp_path).replace("}{", "}\n{").splitlines()
    commands = len(re.findall(r"^(?:decant predict|curl) ", SHELL, re.MULTILINE))
    assert len(answers) == commands == 8
    sevens = [
        re.search(r'"digit":7\b|"name":"digit","shape":\[1\],"datatype":"INT64","data":\[7\]', a) for a in answers
    ]
    assert all(sevens), answers


@pytest.mark.parametrize(("client", "code"), [pair for pair in SCRIPTS if pair[0] != TFSERVING])
def test_a_snippet_prints_the_seven(client: str, code: str, server: Decant, tmp_path: Path) -> None:
    # Without what is installed for Decant.
    argv = [sys.executable, "-S", "-c"]
    packages = tool(PACKAGES[client]) if client else None
    assert set(run(argv, code, server, tmp_path, packages).split()) == {"7"}
