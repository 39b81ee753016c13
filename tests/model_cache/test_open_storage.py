"""Which URLs are read and by what, what is said of the others, and what is imported for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from model_cache.storage import open_storage
from tests.conftest import ROOT
from tests.servers.processes import clean_environment

PATHS = {
    "/models/digits": "/models/digits",
    "/models/digits/": "/models/digits",
    "/models/a b": "/models/a b",
    "/models/100%25": "/models/100%25",
    "/models/a#b?c": "/models/a#b?c",
    "/models/a:b": "/models/a:b",
    "file:///models/digits": "/models/digits",
    "file:///models/digits/": "/models/digits",
    "file://localhost/models/digits": "/models/digits",
    "file:/models/digits": "/models/digits",
    "FILE:///models/digits": "/models/digits",
    "file:///models/a%20b": "/models/a b",
    "file:///models/100%2525": "/models/100%25",
    "file:///models/%C3%A4": "/models/ä",
}


@pytest.mark.parametrize("url", PATHS)
def test_paths_and_file_urls_are_directories(url: str) -> None:
    storage = open_storage(url)
    assert storage.in_place == Path(PATHS[url])
    assert str(storage) == PATHS[url]


@pytest.mark.parametrize("path", ["models", "./models", "../models", "models/digits", "a b", "a%20b", ".models"])
def test_a_path_may_be_relative(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_storage(path).in_place == tmp_path / path


@pytest.mark.parametrize(
    "url",
    ["gs://bucket/digits", "az://container/digits", "https://example.com/digits", "hdfs://digits", "s3a://b/d", "x:y"],
)
def test_what_cannot_be_read_is_told_with_what_can(url: str) -> None:
    with pytest.raises(ValueError, match=r"want a path, file:///path or s3://bucket/prefix") as refusal:
        open_storage(url)
    assert repr(url) in str(refusal.value)


@pytest.mark.parametrize("url", ["file://models/digits", "file://models", "file://server:80/digits"])
def test_a_file_url_with_a_host_is_a_mistake(url: str) -> None:
    with pytest.raises(ValueError, match=r"names the host .*; want file:///path"):
        open_storage(url)


@pytest.mark.parametrize("url", ["s3:", "s3://", "s3:///digits", "s3:digits", "s3:/bucket/digits"])
def test_an_s3_url_needs_a_bucket(url: str) -> None:
    with pytest.raises(ValueError, match=r"names no bucket; want s3://bucket/prefix"):
        open_storage(url)


@pytest.mark.parametrize("url", ["file://", "file:", "file://localhost"])
def test_a_file_url_needs_a_path(url: str) -> None:
    """Else it would be the current directory, which nobody has asked for."""
    with pytest.raises(ValueError, match=r"want file:///path"):
        open_storage(url)


def test_an_s3_url_is_opened_as_given() -> None:
    assert str(open_storage("s3://Bucket.name/a/b%20c/", endpoint="http://127.0.0.1:1")) == "s3://Bucket.name/a/b%20c"


def run(script: str) -> str:
    """Run it in a fresh process, as what is imported cannot be undone."""
    argv = [sys.executable, "-c", script]
    env = clean_environment()
    done = subprocess.run(argv, check=False, cwd=ROOT, env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


ABSENT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "MISSING":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""

OPEN = """
from model_cache.errors import StorageUnavailable
from model_cache.storage import open_storage
try:
    open_storage("s3://bucket/digits")
except (StorageUnavailable, ModuleNotFoundError) as exc:
    print(type(exc).__name__, exc)
print(open_storage("/models").in_place)
"""


@pytest.mark.parametrize("package", ["boto3", "botocore"])
def test_without_the_sdk_it_is_told_how_to_get_it_and_the_rest_works(package: str) -> None:
    sentence = f"s3:// needs {package}, which is not installed; try: pip install 'decant[s3]'"
    output = run(ABSENT.replace("MISSING", package) + OPEN)
    assert output.splitlines() == [f"StorageUnavailable {sentence}", "/models"]


def test_an_sdk_that_is_broken_is_not_taken_for_one_that_is_missing() -> None:
    output = run(ABSENT.replace("MISSING", "jmespath") + OPEN)
    assert output.splitlines() == ["ModuleNotFoundError No module named 'jmespath'", "/models"]


LAZY = """
import sys
import model_cache.cache, model_cache.download, model_cache.repository
from model_cache.storage import open_storage
list(open_storage("examples/digits").list())
print([name for name in ("boto3", "botocore", "urllib3", "numpy", "openvino") if name in sys.modules])
"""


def test_nobody_pays_for_an_sdk_that_is_not_used() -> None:
    assert run(LAZY) == "[]"
