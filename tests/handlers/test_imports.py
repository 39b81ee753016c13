"""The import budget: what is loaded before the first answer, and by whom.

Importing is most of what a start with a small model takes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import DIGITS
from tests.servers import importing
from tests.servers.decant import decant_serve
from tests.servers.lambda_events import function_url
from tests.servers.processes import clean_environment
from tests.servers.seaweedfs import SeaweedFS

SEVEN = (DIGITS / "seven.json").read_bytes()
MODEL = ("--model_name", "digits", "--model_path")

FRAMEWORKS = {"fastapi", "starlette", "pydantic", "uvicorn", "mangum", "tqdm", "zstandard", "ml_dtypes", "requests"}
STORES = {"boto3", "botocore", "azure", "google.cloud", "google.auth", "google.api_core", "urllib3"}
RPC = {"grpc", "google.protobuf"}
# Parts of Python's library that take milliseconds, for what a start does not do.
SLOW = {"argparse", "email", "gettext", "http", "importlib.metadata", "shutil", "tempfile", "urllib.request", "zipfile"}
DOWNLOADS = {"obstore", "google_crc32c"}
OBSERVERS = {"runtime.metrics", "runtime.metric_families", "runtime.observing", "prometheus_client"}
NOT_COUNTED = sys.stdlib_module_names | {"numpy"}


class Import(NamedTuple):
    module: str
    importer: str


def imports_of(path: Path) -> list[Import]:
    return [Import(*line.split(" ")) for line in path.read_text().splitlines()]


def served(
    directory: Path, *flags: str | Path, has_grpc: bool = False, env: dict[str, str] | None = None
) -> list[Import]:
    """What ``decant serve`` has imported when it has answered one request."""
    record = directory / "imports"
    program = (sys.executable, importing.__file__, record, "handlers.cli")
    with decant_serve(directory, *flags, env=env, program=program, without_grpc=not has_grpc) as server:
        assert server.post("/v1/models/digits:predict", SEVEN).body["predictions"][0]["digit"] == 7
        return imports_of(record)


def assert_within_budget(imports: list[Import], most: int, *forbidden: set[str]) -> None:
    names = set().union(*forbidden)
    found = [entry for entry in imports if any(f"{entry.module}.".startswith(f"{name}.") for name in names)]
    assert not found, "; ".join(f"{importer} imports {module}" for module, importer in found)
    # The package around the binding is looked for and not run.
    rest = [entry for entry in imports if entry.module.startswith("openvino.") and "_pyopenvino" not in entry.module]
    assert not rest
    # How many modules Python's library and numpy are made of changes with each of their releases.
    others = {entry.module for entry in imports if entry.module.partition(".")[0] not in NOT_COUNTED}
    assert len(others) <= most


def test_a_server_of_a_local_model_imports_little(tmp_path: Path) -> None:
    assert_within_budget(served(tmp_path, *MODEL, DIGITS), 91, FRAMEWORKS, STORES, RPC, SLOW, DOWNLOADS, OBSERVERS)


def test_with_metrics_a_server_imports_what_counts_and_not_what_writes(tmp_path: Path) -> None:
    imports = served(tmp_path, *MODEL, DIGITS, "--metrics_enable", "true")
    assert "runtime.metrics" in {entry.module for entry in imports}
    assert_within_budget(imports, 95, FRAMEWORKS, STORES, RPC, SLOW, DOWNLOADS, {"prometheus_client"})


def test_a_server_of_a_model_in_s3_imports_a_client_and_little_else(s3: SeaweedFS, tmp_path: Path) -> None:
    imports = served(tmp_path, *MODEL, "s3://models/digits", env=s3.reader.env())
    assert "obstore" in {entry.module for entry in imports}
    assert_within_budget(imports, 101, FRAMEWORKS, STORES, RPC, SLOW)


def test_with_grpc_a_server_imports_that_and_no_web_framework(tmp_path: Path) -> None:
    imports = served(tmp_path, *MODEL, DIGITS, has_grpc=True)
    assert "grpc" in {entry.module for entry in imports}
    assert_within_budget(imports, 170, FRAMEWORKS, STORES, DOWNLOADS)


LAMBDA = """
import json, sys
from tests.servers.importing import Recorder
sys.meta_path.insert(0, Recorder(sys.argv[1]))
from handlers.aws_lambda import handler
assert handler(json.load(sys.stdin), None)["statusCode"] == 200
"""


def test_a_function_imports_no_web_framework_before_its_first_answer(tmp_path: Path) -> None:
    env = clean_environment({"DECANT_MODEL_NAME": "digits", "DECANT_MODEL_PATH": str(DIGITS)})
    event = json.dumps(function_url("POST", "/v1/models/digits:predict", {}, {}, SEVEN)).encode()
    argv = [sys.executable, "-c", LAMBDA, str(tmp_path / "imports")]
    subprocess.run(argv, input=event, env=env, timeout=60, check=True, capture_output=True)
    assert_within_budget(imports_of(tmp_path / "imports"), 74, FRAMEWORKS, STORES, RPC, DOWNLOADS)


def test_what_is_over_the_budget_is_named_with_who_wants_it(tmp_path: Path) -> None:
    (tmp_path / "wasteful.py").write_text("import email.message")
    env = clean_environment({"PYTHONPATH": str(tmp_path)})
    argv = [sys.executable, importing.__file__, str(tmp_path / "imports"), "wasteful"]
    subprocess.run(argv, env=env, timeout=60, check=True)
    imports = imports_of(tmp_path / "imports")
    with pytest.raises(AssertionError, match=r"^__main__ imports email; "):
        assert_within_budget(imports, 1000, SLOW)
    with pytest.raises(AssertionError):
        assert_within_budget(imports, 0)
