"""Which URLs are read and by what, what is said of the others, and what is imported for it."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import pytest

from model_cache.errors import StorageUnavailable
from model_cache.storage import StorageOptions, open_storage
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
    ["https://example.com/digits", "hdfs://digits", "s3a://b/d", "azfs://share/d", "gcs://b/d", "x:y"],
)
def test_what_cannot_be_read_is_told_with_what_can(url: str) -> None:
    wanted = "want a path, file:///path, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
    with pytest.raises(ValueError, match=wanted) as refusal:
        open_storage(url)
    assert repr(url) in str(refusal.value)


@pytest.mark.parametrize("url", ["file://models/digits", "file://models", "file://server:80/digits"])
def test_a_file_url_with_a_host_is_a_mistake(url: str) -> None:
    with pytest.raises(ValueError, match=r"names the host .*; want file:///path"):
        open_storage(url)


# With keys, so that obstore could read it.
AZURE = {"AZURE_STORAGE_ACCOUNT": "account", "AZURE_STORAGE_SAS_TOKEN": "sig=x"}
ENVIRON = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "eu-west-1", "HOME": "/nowhere"}
CLIENTS = ("auto", "sdk", "obstore")


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    "url", ["s3:", "s3://", "s3:///digits", "s3:digits", "s3:/bucket/digits", "s3://server:9000", "s3://server:9000//d"]
)
def test_an_s3_url_needs_a_bucket(url: str, client: str) -> None:
    with pytest.raises(ValueError, match=r"names no bucket; want s3://bucket/prefix"):
        open_storage(url, StorageOptions(client=client, environ=ENVIRON))


@pytest.mark.parametrize("url", ["file://", "file:", "file://localhost"])
def test_a_file_url_needs_a_path(url: str) -> None:
    """Else it would be the current directory, which nobody has asked for."""
    with pytest.raises(ValueError, match=r"want file:///path"):
        open_storage(url)


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_signed_url_is_refused_and_not_shown(scheme: str) -> None:
    for query in ("X-Amz-Signature=hush", "x=1&X-Goog-Signature=hush", "AWSAccessKeyId=hush&Signature=hush"):
        with pytest.raises(ValueError, match=f"'{scheme}://b/d' has a signature") as refusal:
            open_storage(f"{scheme}://b/d?{query}", StorageOptions(environ=ENVIRON))
        assert "hush" not in str(refusal.value)


KEY = '{"type": "service_account", "private_key": "-----BEGIN PRIVATE KEY-----'
TOKEN = "eyJhbGciOiJub25lIn0.eyJleHAiOjF9.hush"
MISPLACED = {
    KEY: ("gs", "GOOGLE_APPLICATION_CREDENTIALS"),
    f"\n{KEY}": ("gs", "GOOGLE_APPLICATION_CREDENTIALS"),
    base64.b64encode(KEY.encode()).decode(): ("gs", "GOOGLE_APPLICATION_CREDENTIALS"),
    TOKEN: ("s3", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    f"{TOKEN} ": ("azure", "AZURE_FEDERATED_TOKEN_FILE"),
    "x" * 5000: ("az", "AZURE_FEDERATED_TOKEN_FILE"),
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("secret", MISPLACED)
def test_a_secret_that_is_given_for_its_path_is_refused_and_not_shown(secret: str, client: str) -> None:
    scheme, variable = MISPLACED[secret]
    with pytest.raises(StorageUnavailable, match=f"^cannot set up {scheme}://: {variable} is no path") as refusal:
        open_storage(f"{scheme}://b/d", StorageOptions(client=client, environ=AZURE | {variable: secret}))
    assert secret[:20] not in str(refusal.value)
    open_storage(f"{scheme}://b/d", StorageOptions(environ=AZURE | {variable: secret}, is_anonymous=True))


@pytest.mark.parametrize("name", ["no.json", "{key}.json", "a" * 200 + "/" + "b" * 200])
def test_a_path_is_one_whatever_it_looks_like(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if name != "no.json":
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("{}")
    assert open_storage("gs://b/d", StorageOptions(environ={"GOOGLE_APPLICATION_CREDENTIALS": name})) is not None


S3_URLS = {
    "s3://Bucket.name/a/b%20c/": "s3://Bucket.name/a/b%20c",
    "s3://bucket/a#b?c": "s3://bucket/a#b?c",
    "s3://bucket": "s3://bucket",
    "s3://bucket/": "s3://bucket",
    "s3://server:9000/bucket/digits/": "s3://server:9000/bucket/digits",
    "s3://10.0.0.1:80/bucket": "s3://10.0.0.1:80/bucket",
    "s3://[::1]:9000/bucket/digits": "s3://[::1]:9000/bucket/digits",
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("url", S3_URLS)
def test_an_s3_url_is_opened_as_given(url: str, client: str) -> None:
    assert str(open_storage(url, StorageOptions(client=client, environ=ENVIRON))) == S3_URLS[url]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_directory_needs_no_client(client: str) -> None:
    assert open_storage("/models", StorageOptions(client=client)).in_place == Path("/models")


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
from model_cache.storage import StorageOptions, open_storage
def attempt(url, **options):
    try:
        storage = open_storage(url, StorageOptions(environ=ENVIRON, **options))
    except (StorageUnavailable, ModuleNotFoundError) as exc:
        print(type(exc).__name__, exc)
    else:
        print(type(storage).__module__, storage)
"""
OPEN_ALL = """
attempt("s3://bucket/digits", client="sdk")
attempt("gs://bucket/digits")
attempt("az://container/digits", client="sdk")
attempt("/models")
"""


@pytest.mark.parametrize(
    ("package", "scheme", "extra"),
    [("boto3", "s3", "s3"), ("botocore", "s3", "s3"), ("google.cloud", "gs", "gcs"), ("azure.storage", "az", "azure")],
)
def test_without_the_sdk_it_is_told_how_to_get_it_and_the_rest_works(package: str, scheme: str, extra: str) -> None:
    output = run(ABSENT.replace("MISSING", package) + OPEN.replace("ENVIRON", str(ENVIRON | AZURE)) + OPEN_ALL)
    sentence = f"{scheme}:// needs {package}, which is not installed; try: pip install 'decant[{extra}]'"
    opened = {
        "s3": "model_cache.s3 s3://bucket/digits",
        "gs": "model_cache.gcs gs://bucket/digits",
        "az": "model_cache.azure az://container/digits",
    }
    opened[scheme] = f"StorageUnavailable {sentence}"
    assert output.splitlines() == [*opened.values(), "model_cache.local /models"]


def test_an_sdk_that_is_broken_is_not_taken_for_one_that_is_missing() -> None:
    output = run(
        ABSENT.replace("MISSING", "jmespath") + OPEN.replace("ENVIRON", "{}") + 'attempt("s3://bucket/digits")'
    )
    assert output == "ModuleNotFoundError No module named 'jmespath'"


OPEN_EACH_WAY = """
for client in ("auto", "sdk", "obstore"):
    attempt("s3://bucket/digits", client=client)
"""


def test_without_obstore_the_sdk_reads_and_who_insists_is_told_how_to_get_it() -> None:
    output = run(ABSENT.replace("MISSING", "obstore") + OPEN.replace("ENVIRON", str(ENVIRON)) + OPEN_EACH_WAY)
    assert output.splitlines() == [
        "model_cache.s3 s3://bucket/digits",
        "model_cache.s3 s3://bucket/digits",
        "StorageUnavailable obstore cannot read this s3:// as it is set up: "
        "it is not installed; try: pip install 'decant[fast]'",
    ]


def test_without_the_sdk_obstore_reads() -> None:
    output = run(ABSENT.replace("MISSING", "boto3") + OPEN.replace("ENVIRON", str(ENVIRON)) + OPEN_EACH_WAY)
    assert output.splitlines() == [
        "model_cache.storage s3://bucket/digits",
        "StorageUnavailable s3:// needs boto3, which is not installed; try: pip install 'decant[s3]'",
        "model_cache.fast s3://bucket/digits",
    ]


def test_one_clouds_sdk_needs_nothing_of_anothers() -> None:
    script = ABSENT.replace("MISSING", "requests") + OPEN.replace("ENVIRON", "{}") + 'attempt("s3://bucket/digits")'
    assert run(script) == "model_cache.s3 s3://bucket/digits"


LAZY = """
import sys
import model_cache.cache, model_cache.download, model_cache.repository
from model_cache.storage import open_storage
list(open_storage("examples/digits").list())
names = ("boto3", "botocore", "obstore", "google", "azure", "urllib3", "requests", "numpy", "openvino")
print([name for name in names if name in sys.modules])
"""


def test_nobody_pays_for_an_sdk_that_is_not_used() -> None:
    assert run(LAZY) == "[]"
