"""Models in real stores, as whoever may read them and as who may not."""

from __future__ import annotations

import dataclasses
import http.server
import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest

from handlers.configuration import ModelConfig
from handlers.doctor.credentials import check_credentials
from handlers.doctor.finding import Finding, Level
from handlers.doctor.room import check_compiled, check_fit, check_formats
from handlers.doctor.stores import LIST, Stored, check_model, refused
from model_cache.errors import StorageUnavailable
from model_cache.policy import Specific
from model_cache.storage import StorageOptions, open_storage
from tests.conftest import DIGITS
from tests.handlers.doctor.sites import levels, one, site_of
from tests.servers.azurite import Azurite
from tests.servers.fake_gcs import FakeGcs
from tests.servers.processes import free_port
from tests.servers.seaweedfs import Credentials, SeaweedFS

CLIENTS = pytest.mark.parametrize("client", ["obstore", "sdk"])


def options_of(env: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, client: str = "auto") -> StorageOptions:
    """As a process has them with these variables, which SDKs read themselves."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    # It keeps credentials for as long as a process lives.
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    endpoint = env.get("AWS_ENDPOINT_URL_S3", "")
    return StorageOptions(s3_endpoint=endpoint, client=client, environ=env, connect_timeout=1.0, read_timeout=5.0)


def examined(
    url: str, options: StorageOptions, *, stored: list[Stored] | None = None, writes: bool = False, **of_model: Any
) -> list[Finding]:
    settings = {"ready_marker": of_model.pop("ready_marker", "")}
    model = ModelConfig("digits", url, **of_model)
    return list(check_model(site_of(writes=writes, **settings), model, options, [] if stored is None else stored))


@CLIENTS
def test_whoever_may_read_is_told_that_all_is_well(s3: SeaweedFS, client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stored: list[Stored] = []
    found = examined("s3://models/digits", options_of(s3.reader.env(), monkeypatch, client), stored=stored)
    assert levels(found) == dict.fromkeys(("model.list", "model.versions", "model.files", "model.read"), Level.OK)
    assert "first byte of model.bin after" in one(found, "model.read").detail
    assert stored[0].newest.size == sum(path.stat().st_size for path in (DIGITS / "1").iterdir())


@CLIENTS
def test_a_bucket_that_may_not_be_listed_is_told_with_the_right_that_is_missing(
    s3: SeaweedFS, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put_tree("others", "digits", DIGITS)
    found = examined("s3://others/digits", options_of(s3.reader.env(), monkeypatch, client))
    refused = one(found, "model.list")
    assert (refused.level, "AccessDenied" in refused.detail) == (Level.PROBLEM, True)
    assert "allow s3:ListBucket" in refused.advice
    assert "S3 answers 403 for what is not there, too" in refused.advice


@CLIENTS
def test_a_bucket_that_is_not_there_and_a_wrong_key_are_told_apart(
    s3: SeaweedFS, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = one(examined("s3://no-such-bucket/m", options_of(s3.admin.env(), monkeypatch, client)), "model.list")
    assert "check the bucket's name" in gone.advice
    wrong = Credentials("AKIANOBODYKNOWSIT", "wrong", s3.endpoint)
    unknown = one(examined("s3://models/digits", options_of(wrong.env(), monkeypatch, client)), "model.list")
    assert "the store does not know these credentials" in unknown.advice


@pytest.mark.container
def test_what_may_be_listed_and_not_read_is_told(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root, to be somebody else for a moment: run it in a container, as CI does")
    write(tmp_path, {"1/model.xml": "<net/>", "1/model.bin": "weights"})
    (tmp_path / "1" / "model.bin").chmod(0)
    for directory in (tmp_path, *tmp_path.parents):
        directory.chmod(directory.stat().st_mode | 0o055)
    os.seteuid(65534)
    try:
        found = one(examined(str(tmp_path), StorageOptions()), "model.read")
    finally:
        os.seteuid(0)
    assert (found.level, found.advice) == (Level.PROBLEM, "make the files readable for this user")


@pytest.mark.parametrize(
    ("files", "of_model", "says"),
    [
        ({}, {}, "there is nothing below"),
        ({"model.xml": ""}, {}, "no directory below"),
        ({"1/model.onnx": "x"}, {"ready_marker": "_SUCCESS"}, "only versions with a file _SUCCESS count"),
        ({"1/model.onnx": "x"}, {"policy": Specific(frozenset({7}))}, "offers none of those there are: 1"),
    ],
)
def test_why_there_is_no_version_is_told(
    files: dict[str, str], of_model: dict[str, Any], says: str, tmp_path: Path
) -> None:
    write(tmp_path, files)
    found = one(examined(str(tmp_path), StorageOptions(), **of_model), "model.versions")
    assert (found.level, says in found.detail) == (Level.PROBLEM, True), found


@pytest.mark.parametrize(
    ("files", "level", "says"),
    [
        ({"1/readme.md": "x"}, Level.PROBLEM, "no file is a model"),
        ({"1/a.xml": "x", "1/b.xml": "x"}, Level.PROBLEM, "a.xml, b.xml; want one"),
        ({"1/a.xml": "x"}, Level.WARNING, "no .bin"),
        ({"1/saved_model.pb": "x", "1/variables/variables.index": "y"}, Level.OK, "saved_model.pb"),
        ({"1/m.json": "{}", "1/m.pdiparams": "y"}, Level.OK, ".json"),
        ({"1/m.json": "{}"}, Level.PROBLEM, "no file is a model"),
        ({"1/m.pdmodel": "x", "1/m.pdiparams": "y"}, Level.OK, ".pdmodel"),
        ({"1/m.tflite": "x"}, Level.OK, ".tflite"),
    ],
)
def test_files_are_known_as_a_model_or_not(files: dict[str, str], level: Level, says: str, tmp_path: Path) -> None:
    write(tmp_path, files)
    found = one(examined(str(tmp_path), StorageOptions()), "model.files")
    assert (found.level, says in found.detail) == (level, True), found


def write(directory: Path, files: Mapping[str, str], age: float = 60.0) -> None:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        os.utime(path, (time.time() - age,) * 2)


def test_a_label_that_points_nowhere_is_told(tmp_path: Path) -> None:
    write(tmp_path, {"1/m.onnx": "x", "2/m.onnx": "y"})
    found = examined(str(tmp_path), StorageOptions(), labels={"stable": 1, "canary": 3})
    assert "'canary' is of version 3" in one(found, "model.labels").detail


def test_a_path_that_nothing_reads_and_one_that_is_not_there_are_told() -> None:
    assert levels(examined("ftp://host/m", StorageOptions())) == {"model.storage": Level.PROBLEM}
    found = one(examined("/no/such/place", StorageOptions()), "model.list")
    assert "check the path, and that it is mounted" in found.advice


ADVICE = {
    ("az", "403 AuthorizationFailure"): "the account's firewall",
    ("az", "403 KeyBasedAuthenticationNotPermitted"): "takes no keys",
    ("az", "409 PublicAccessNotPermitted"): "grant Storage Blob Data Reader",
    ("az", "Incorrect padding"): "is no base64",
    ("s3", "The config profile (nope) could not be found"): "said of the credentials",
    ("s3", 'Generic S3 error: Failed to read token file "/nope"'): "said of the credentials",
    ("s3", "External AWS credential provider: Connection refused"): "said of the credentials",
    ("s3", "SSL validation failed … CERTIFICATE_VERIFY_FAILED"): "AWS_CA_BUNDLE",
    ("s3", "SSL validation failed … [SSL: WRONG_VERSION_NUMBER]"): "no TLS is spoken there",
    ("s3", "HTTP error: error sending request (https://127.0.0.1:17634)"): "if it answers, TLS is refused",
    ("s3", "HTTP error: error sending request (http://127.0.0.1:17634)"): "said of the endpoint; check the path",
}


@pytest.mark.parametrize(("scheme", "text"), ADVICE)
def test_what_stores_and_their_clients_say_is_explained(scheme: str, text: str) -> None:
    storage = open_storage(f"{scheme}://models/m", StorageOptions(environ=AN_ACCOUNT))
    found = refused("m", "model.list", StorageUnavailable(f"cannot list {storage}: {text}"), storage, LIST)
    assert ADVICE[scheme, text] in found.advice


AN_ACCOUNT = {"AZURE_STORAGE_ACCOUNT": "a", "AZURE_STORAGE_KEY": "aHVzaA=="}


def test_publishing_is_tried_only_if_asked_and_leaves_nothing(
    s3: SeaweedFS, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket = "publishing"
    s3.put_tree(bucket, "digits", DIGITS)
    keys = s3.client().list_objects_v2(Bucket=bucket)["KeyCount"]
    for client in ("obstore", "sdk"):
        admin = options_of(s3.admin.env(), monkeypatch, client)
        assert "model.publish" not in levels(examined(f"s3://{bucket}/digits", admin))
        assert one(examined(f"s3://{bucket}/digits", admin, writes=True), "model.publish").level is Level.OK
        assert s3.client().list_objects_v2(Bucket=bucket)["KeyCount"] == keys
        reader = options_of(s3.reader.env(), monkeypatch, client)
        refused = one(examined("s3://models/digits", reader, writes=True), "model.publish")
        assert (refused.level, "s3:PutObject" in refused.advice) == (Level.PROBLEM, True)
    write(tmp_path, {"1/m.onnx": "x"})
    assert one(examined(str(tmp_path), StorageOptions(), writes=True), "model.publish").level is Level.OK
    assert [path.name for path in (tmp_path / "1").iterdir()] == ["m.onnx"]


@CLIENTS
def test_googles_store_is_read(gcs: FakeGcs, client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = options_of(gcs.env(), monkeypatch, client)
    found = examined("gs://models/digits", options, writes=client == "sdk")
    assert set(levels(found).values()) == {Level.OK}
    gone = one(examined("gs://no-such-bucket/digits", options), "model.list")
    # Of what obstore asks the fake server says 500.
    assert (gone.level, client == "obstore" or "check the bucket's name" in gone.advice) == (Level.PROBLEM, True)
    credentials = list(check_credentials(site_of(gcs.env()), "gs", "gs://models/digits", options))
    assert credentials[0].id == "credentials"


@pytest.mark.node
@CLIENTS
def test_azures_store_is_read_by_a_share_whose_end_is_told(
    azure: Azurite, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = options_of(azure.reader_env("models"), monkeypatch, client)
    assert set(levels(examined("az://models/digits", reader)).values()) == {Level.OK}
    refused = one(examined("az://models/digits", reader, writes=True), "model.publish")
    assert (refused.level, "Contributor" in refused.advice) == (Level.PROBLEM, True)
    told = list(check_credentials(site_of(reader.environ), "az", "az://models/digits", reader))
    assert levels(told)["credentials.expiry"] in (Level.OK, Level.WARNING)
    sas = azure.sas("models", hours=-1)
    expired = dataclasses.replace(reader, environ={**reader.environ, "AZURE_STORAGE_SAS_TOKEN": sas})
    told = list(check_credentials(site_of(expired.environ), "az", "az://models/digits", expired))
    assert one(told, "credentials.expiry").level is Level.PROBLEM
    assert sas not in str(told)
    assert one(examined("az://models/digits", expired), "model.list").level is Level.PROBLEM


def credentials_of(env: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, client: str = "auto") -> list[Finding]:
    options = options_of(env, monkeypatch, client)
    return list(check_credentials(site_of(env), "s3", "s3://models/digits", options))


@CLIENTS
def test_of_keys_no_more_than_their_end_is_shown(client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env = {
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI",
        "AWS_REGION": "eu-west-1",
        "AWS_SESSION_TOKEN": "tokentokentoken",
    }
    (found,) = credentials_of(env, monkeypatch, client)
    assert found.level is Level.OK
    assert "key …MPLE" in found.detail
    assert "region eu-west-1" in found.detail
    for secret in ("AKIAIOSFODNN7EXAM", "wJalrXUtnFEMI", "tokentoken"):
        assert secret not in str(found)


def test_no_credentials_are_a_warning_as_buckets_may_be_public(monkeypatch: pytest.MonkeyPatch) -> None:
    env = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null", "AWS_REGION": "eu-west-1"}
    (found,) = credentials_of(env, monkeypatch)
    assert (found.level, "asks as nobody" in found.detail) == (Level.WARNING, True)
    options = StorageOptions(is_anonymous=True, environ=env)
    (asked,) = check_credentials(site_of(env), "s3", "s3://models/digits", options)
    assert asked.level is Level.OK


def test_a_roles_token_is_told_with_its_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import jwt

    path = tmp_path / "token"
    env = {
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(path),
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/models",
        "AWS_REGION": "eu-west-1",
        "HOME": str(tmp_path),
    }
    (missing,) = credentials_of(env, monkeypatch, "obstore")
    assert (missing.level, "FileNotFoundError" in missing.detail) == (Level.PROBLEM, True)
    for seconds, level in ((3600.0, Level.OK), (-60.0, Level.PROBLEM)):
        path.write_text(jwt.encode({"exp": time.time() + seconds}, "a secret that nobody knows of, long enough"))
        found = credentials_of(env, monkeypatch, "obstore")
        assert levels(found) == {"credentials": Level.OK, "credentials.expiry": level}
        assert "role/models" in found[0].detail


class _Agent(http.server.BaseHTTPRequestHandler):
    """Gives credentials that end in half an hour, as a container's own agent does."""

    def do_GET(self) -> None:
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 1800))
        found = {
            "AccessKeyId": "ASIAIOSFODNN7EXAMPLE",
            "SecretAccessKey": "hushhush",
            "Token": "t",
            "Expiration": until,
        }
        body = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_what_a_containers_agent_gives_is_told_with_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Agent) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        uri = f"http://127.0.0.1:{server.server_port}/credentials"
        env = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": uri, "AWS_REGION": "eu-west-1", "HOME": "/nowhere"}
        try:
            found = [credentials_of(env, monkeypatch, client) for client in ("obstore", "sdk")]
        finally:
            server.shutdown()
            thread.join()
    for told in found:
        # It is renewed, and so half an hour is enough.
        assert levels(told) == {"credentials": Level.OK, "credentials.expiry": Level.OK}
        assert "key …MPLE" in told[0].detail
        assert "are got anew" in told[1].detail
        assert "hushhush" not in str(told)


def test_a_file_of_googles_that_is_named_and_not_there_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    env = {"GOOGLE_APPLICATION_CREDENTIALS": "/no/such/file.json"}
    options = options_of(env, monkeypatch, "sdk")
    (found,) = check_credentials(site_of(env), "gs", "gs://models/digits", options)
    assert (found.level, "/no/such/file.json" in found.detail) == (Level.PROBLEM, True)


def test_the_key_of_an_account_of_azures_is_told_and_not_shown() -> None:
    options = StorageOptions(client="sdk", environ={"AZURE_STORAGE_ACCOUNT": "a", "AZURE_STORAGE_KEY": "aHVzaA=="})
    (found,) = check_credentials(site_of(options.environ), "azure", "azure://models/digits", options)
    assert (found.level, found.detail) == (Level.OK, "the account's key, by the SDK")


def test_a_containers_agent_that_is_not_there_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"http://127.0.0.1:{free_port()}/credentials"
    env = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": uri, "AWS_REGION": "eu-west-1", "HOME": "/nowhere"}
    (found,) = credentials_of(env, monkeypatch, "obstore")
    assert (found.level, "refused" in found.detail) == (Level.PROBLEM, True)


def stored_at(directory: Path, **of_model: Any) -> list[Stored]:
    stored: list[Stored] = []
    examined(str(directory), StorageOptions(), stored=stored, **of_model)
    return stored


def test_a_model_that_does_not_fit_is_a_problem_and_many_that_do_not_a_warning(tmp_path: Path) -> None:
    write(tmp_path, {"1/m.onnx": "x" * (1 << 20)})
    (small,) = stored_at(tmp_path)
    fetched = small._replace(in_place=False)
    roomy = site_of(memory_budget=1 << 30, disk_budget=1 << 30, cache_dir=str(tmp_path / "cache"))
    assert levels(check_fit(roomy, [fetched])) == {"memory.models": Level.OK, "disk.models": Level.OK}
    tight = site_of(memory_budget=1 << 20, disk_budget=1 << 19, cache_dir=str(tmp_path / "cache"))
    found = levels(check_fit(tight, [fetched]))
    assert found == {"memory.model": Level.PROBLEM, "disk.model": Level.PROBLEM}
    other = tmp_path / "other"
    write(other, {"1/m.onnx": "y" * (1 << 20)})
    two = [fetched, stored_at(other)[0]._replace(in_place=False)]
    some = site_of(memory_budget=20 << 20, disk_budget=3 << 19, cache_dir=str(tmp_path / "cache"))
    assert levels(check_fit(some, two)) == {"memory.models": Level.WARNING, "disk.models": Level.WARNING}
    assert levels(check_fit(some._replace(settings=site_of(workers=20, memory_budget=20 << 20).settings), [small])) == {
        "memory.model": Level.PROBLEM
    }


def test_a_format_without_its_front_end_is_a_problem(tmp_path: Path) -> None:
    write(tmp_path, {"1/m.tflite": "x"})
    stored = stored_at(tmp_path)
    assert levels(check_formats(stored, ["ir", "onnx"])) == {"openvino.format": Level.PROBLEM}
    assert list(check_formats(stored, ["ir", "tflite"])) == []


def test_what_is_compiled_for_others_is_told(tmp_path: Path) -> None:
    from handlers.properties import properties
    from runtime.compiled import Header, Origin, identity_of
    from runtime.options import DEFAULTS

    site = site_of()
    identity = identity_of(properties(site.settings, 1e9), DEFAULTS)
    name = Header("2026.4.1-1-x", "isa=this", identity, Origin("", 0, ""), 0, "", 0.0).name
    write(tmp_path, {"1/m.xml": "x", "1/m.bin": "y", f"1/compiled/{name}": "z"})
    stored = stored_at(tmp_path)
    assert levels(check_compiled(site, stored, "2026.4.1-1-x", "isa=this")) == {"compiled": Level.OK}
    for version, isa in (("2026.4.1-1-x", "isa=that"), ("2026.5.0-1-x", "isa=this")):
        (found,) = check_compiled(site, stored, version, isa)
        assert (found.level, "for another OpenVINO or processor" in found.detail) == (Level.WARNING, True)
    fast = site_of(plugin_config={"PERFORMANCE_HINT": "THROUGHPUT"})
    (found,) = check_compiled(fast, stored, "2026.4.1-1-x", "isa=this")
    assert "with other properties" in found.detail
    assert json.dumps(found)
