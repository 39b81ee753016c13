"""SnapStart: AWS's own runtime client against a Runtime API of ours, and a world that changes while nobody looks."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from handlers.snapshot import ProcessorChanged, check_processor, processor_features
from tests.conftest import DIGITS
from tests.fakes import until
from tests.model_cache.test_fast import in_the_future, server
from tests.servers.fault_proxy import FaultProxy, Stall, on
from tests.servers.lambda_events import function_url, response_body
from tests.servers.processes import Process, clean_environment
from tests.servers.runtime_api import RuntimeApi, environment
from tests.servers.seaweedfs import Credentials, SeaweedFS

PREDICT = function_url("POST", "/v1/models/digits:predict", {}, {}, (DIGITS / "seven.json").read_bytes())
CACHE = function_url("GET", "/v1/cache", {}, {}, b"")
SNAP_START = {"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"}
LISTING = r"list-type=2"
OF_A_MODEL = r"/\d/model"


class Identity:
    """What Lambda runs beside a function with SnapStart: it gives out the credentials of ``who`` there is now."""

    def __init__(self, who: Credentials) -> None:
        self.who = who

    def __call__(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, str]:
        keys = {"AccessKeyId": self.who.access_key, "SecretAccessKey": self.who.secret_key}
        return 200, json.dumps(keys | {"Token": None, "Expiration": in_the_future(6)})


class World:
    """A bucket with a model in it, a proxy before it, and who may read it."""

    def __init__(self, s3: SeaweedFS, proxy: FaultProxy, identity: Identity, url: str, prefix: str) -> None:
        self.s3 = s3
        self.proxy = proxy
        self.identity = identity
        self._prefix = prefix
        reader = dataclasses.replace(s3.reader, endpoint=proxy.url).env()
        self.env = {name: value for name, value in reader.items() if "KEY" not in name} | {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": url,
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": "t0ken",
            "DECANT_MODEL_NAME": "digits",
            "DECANT_MODEL_PATH": f"s3://models/{prefix}",
            "DECANT_READY_MARKER": "_SUCCESS",
            # For ever, by any clock.
            "DECANT_FILE_SYSTEM_POLL_WAIT_SECONDS": "0",
        }

    def publish(self, version: int) -> None:
        self.s3.put_tree("models", f"{self._prefix}/{version}", DIGITS / "1")
        self.s3.client().put_object(Bucket="models", Key=f"{self._prefix}/{version}/_SUCCESS", Body=b"")


@pytest.fixture
def world(s3: SeaweedFS, request: pytest.FixtureRequest) -> Iterator[World]:
    identity = Identity(s3.reader)
    prefix = "snapshots-" + "".join(filter(str.isalnum, request.node.name))
    with FaultProxy(s3.endpoint) as proxy, server(identity) as url:
        world = World(s3, proxy, identity, url, prefix)
        world.publish(1)
        yield world


def cache_dir(tmp_path: Path) -> dict[str, str]:
    return {"DECANT_CACHE_DIR": str(tmp_path / "cache")}


def in_memory(api: RuntimeApi) -> list[int]:
    versions = json.loads(response_body(api.invoke(CACHE)))["models"]["digits"]["versions"]
    return sorted(int(version["version"]) for version in versions if version["where"]["memory"])


def wait_until_frozen(api: RuntimeApi, process: Process) -> None:
    process.wait_until(api.frozen.is_set, 60)


def connections(process: Process, url: str) -> int:
    """How many sockets a process has that are connected to a URL's port."""
    port = int(url.rpartition(":")[2])
    connected = {
        line.split()[9]
        for line in Path(f"/proc/{process.pid}/net/tcp").read_text().splitlines()[1:]
        # proc_net(5): remote address, state; 01 is connected.
        if int(line.split()[2].partition(":")[2], 16) == port and line.split()[3] == "01"
    }
    links = (str(entry.readlink()) for entry in Path(f"/proc/{process.pid}/fd").iterdir() if entry.is_symlink())
    return sum(link.removeprefix("socket:[").rstrip("]") in connected for link in links)


@pytest.mark.parametrize("client", ["obstore", "sdk"])
def test_what_is_in_a_snapshot_serves_at_once_and_what_has_changed_since_is_found(
    world: World, client: str, tmp_path: Path
) -> None:
    env = world.env | cache_dir(tmp_path) | {"DECANT_STORAGE_CLIENT": client}
    with environment(tmp_path, SNAP_START | env) as (api, process):
        wait_until_frozen(api, process)
        # Everything is there and has been run, and no connection is open that a copy would share or find dead.
        assert world.proxy.count("GET", OF_A_MODEL) > 0
        assert "warmed up serving_default of digits/1" in process.log()
        until(lambda: connections(process, world.proxy.url) == 0)
        before = len(world.proxy.requests)

        world.publish(2)
        world.identity.who = world.s3.admin
        stall = Stall()
        world.proxy.use(on(stall, "GET", LISTING))
        api.restore()

        answer = api.invoke(PREDICT)
        assert answer["statusCode"] == 200
        assert json.loads(response_body(answer))["predictions"][0]["digit"] == 7
        # It has not waited for the store, which is asked behind it; and nothing was loaded for it.
        assert stall.reached.wait(30)
        assert not stall.released.is_set()
        assert [request.path for request in world.proxy.requests[before:] if "list-type" not in request.path] == []
        assert in_memory(api) == [1]

        stall.released.set()
        world.proxy.use()
        until(lambda: api.invoke(PREDICT)["statusCode"] == 200 and in_memory(api) == [1, 2])
    asked = [request.headers.get("authorization", "") for request in world.proxy.requests[before:]]
    assert asked
    assert all(f"Credential={world.s3.admin.access_key}/" in header for header in asked)
    assert (api.init_errors, api.restore_errors) == ([], [])


def test_metrics_are_of_the_restore_and_not_of_what_was_before(tmp_path: Path) -> None:
    env = {"DECANT_MODEL_NAME": "digits", "DECANT_MODEL_PATH": str(DIGITS)} | cache_dir(tmp_path)
    with environment(tmp_path, SNAP_START | env) as (api, process):
        wait_until_frozen(api, process)
        api.restore()
        assert api.invoke(PREDICT)["statusCode"] == 200
        spans = json.loads(response_body(api.invoke(function_url("GET", "/v1/coldstart", {}, {}, b""))))["spans"]
    (line,) = [line for line in process.log().splitlines() if line.startswith('{"_aws"')]
    assert json.loads(line)["FunctionName"] == "decant"
    names = [span["name"] for span in spans]
    assert "restore" in names
    assert "compile" not in names


def test_what_is_done_behind_the_answers_is_done_before_the_snapshot(tmp_path: Path) -> None:
    env = {"DECANT_MODEL_NAME": "digits", "DECANT_MODEL_PATH": str(DIGITS)} | cache_dir(tmp_path)
    kept = {"DECANT_KEEP_COMPILED": "true"}
    with environment(tmp_path, SNAP_START | env | kept) as (api, process):
        wait_until_frozen(api, process)
        assert [path.suffix for path in (tmp_path / "cache").glob("*/compiled/*")] == [".blob"]


def test_a_model_that_does_not_load_fails_the_publication(tmp_path: Path) -> None:
    env = {"DECANT_MODEL_NAME": "digits", "DECANT_MODEL_PATH": str(tmp_path / "nowhere")} | cache_dir(tmp_path)
    with environment(tmp_path, SNAP_START | env) as (api, process):
        assert process.wait() == 1
    (failure,) = api.init_errors
    assert str(tmp_path / "nowhere") in failure.error["errorMessage"]
    assert not api.frozen.is_set()


# A handler of a user's own, with hooks that go by what the test says.
OTHER_HOOKS = """
from handlers.aws_lambda import handler
from handlers.build import build_server
from handlers.settings import read_settings
from handlers.snapshot import Snapshot

settings = read_settings({}, {})
Snapshot(build_server(settings), iter(OPTIONS).__next__, iter(PROCESSORS).__next__).register()
"""


@pytest.mark.parametrize(
    ("options", "processors", "code", "kind"),
    [
        ("[]", "[{}, {}]", 64, "StopIteration"),
        ("[settings.storage_options()] * 2", "[]", 64, "StopIteration"),
        ("[settings.storage_options()]", "[{}, {}]", 65, "StopIteration"),
        ("[settings.storage_options()] * 2", '[{"avx": 3}, {"avx": 1}]', 65, "ProcessorChanged"),
    ],
)
def test_a_hook_that_fails_ends_the_environment(
    options: str, processors: str, code: int, kind: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(OTHER_HOOKS.replace("PROCESSORS", processors).replace("OPTIONS", options))
    env = {"DECANT_MODEL_NAME": "digits", "DECANT_MODEL_PATH": str(DIGITS)} | cache_dir(tmp_path)
    with environment(tmp_path, SNAP_START | env, "mine.handler") as (api, process):
        if code == 65:
            wait_until_frozen(api, process)
            api.restore()
        assert process.wait() == code
    told, others = (api.init_errors, api.restore_errors)[:: 1 if code == 64 else -1]
    (failure,) = told
    assert failure.kind == ("Runtime.BeforeSnapshotError" if code == 64 else "Runtime.AfterRestoreError")
    assert failure.error["errorType"] == kind
    assert others == []


DRAWING = """
import random
from handlers.aws_lambda import handler as decant

# As if this were what the snapshot has.
random.seed(1)

def handler(event, context):
    return random.random()
"""


def test_a_restored_environment_has_random_numbers_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(DRAWING)
    env = {"DECANT_MODEL_NAME": "digits", "DECANT_MODEL_PATH": str(DIGITS)} | cache_dir(tmp_path)
    with environment(tmp_path, env, "mine.handler") as (api, _):
        assert api.invoke({}) == random.Random(1).random()
    with environment(tmp_path, SNAP_START | env, "mine.handler") as (api, process):
        wait_until_frozen(api, process)
        api.restore()
        assert api.invoke({}) != random.Random(1).random()


@pytest.mark.parametrize(
    ("before", "after", "is_able"),
    [
        ({"avx": 3}, {"avx": 3}, True),
        ({"avx": 1}, {"avx": 3, "amx": 1}, True),
        ({"avx": 3}, {"avx": 2}, False),
        ({"avx": 3, "amx": 1}, {"avx": 3}, False),
        ({"avx": 3, "amx": 0}, {"avx": 3}, True),
        # Nothing is known.
        ({}, {"avx": 3}, True),
        ({"avx": 3}, {}, True),
    ],
)
def test_a_processor_must_have_what_the_one_before_had(
    before: dict[str, int], after: dict[str, int], is_able: bool
) -> None:
    if is_able:
        check_processor(before, after)
    else:
        with pytest.raises(ProcessorChanged, match=r"processor with features that this one lacks: \w+ 0x1$"):
            check_processor(before, after)


def test_what_this_processor_can_do_is_told_by_the_system() -> None:
    features = processor_features()
    assert features == processor_features()
    assert not features or any(features.values())


# Two processes that go on from one state, as two environments from one snapshot.
RESTORED_TWICE = """
import json, os, random
import numpy.random
from handlers.snapshot import reseed

def draw():
    return [random.random(), random.uniform(0.5, 1.5), float(numpy.random.random())]

# Python has a seed of its own for a process that was forked, and cannot know that one was restored.
state = random.getstate()
for name in ("one", "other"):
    if not os.fork():
        random.setstate(state)
        same = draw()
        reseed()
        with open(name, "w") as file:
            json.dump({"same": same, "own": draw()}, file)
        os._exit(0)
for _ in range(2):
    assert os.wait()[1] == 0
"""


def test_two_environments_from_one_snapshot_have_random_numbers_of_their_own(tmp_path: Path) -> None:
    env = clean_environment({"PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    subprocess.run([sys.executable, "-c", RESTORED_TWICE], cwd=tmp_path, env=env, timeout=60, check=True)
    one: dict[str, Any] = json.loads((tmp_path / "one").read_text())
    other: dict[str, Any] = json.loads((tmp_path / "other").read_text())
    assert one["same"] == other["same"]
    assert not set(one["own"]) & set(other["own"])
