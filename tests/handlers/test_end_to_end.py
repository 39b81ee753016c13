"""The whole path: a model in a bucket, a cold process, a client, the right answer."""

from __future__ import annotations

import dataclasses
import json
import socket
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import DIGITS
from tests.fakes import until
from tests.servers.decant import decant_serve
from tests.servers.fault_proxy import ACCESS_DENIED, INTERNAL_ERROR, Before, Cut, FaultProxy, on
from tests.servers.lambda_emulator import lambda_emulator
from tests.servers.lambda_events import EVENT_BUILDERS, function_url, response_body
from tests.servers.ovms_client import OvmsClient, OvmsClientError
from tests.servers.seaweedfs import SeaweedFS

SEVEN = json.loads((DIGITS / "seven.json").read_bytes())
IMAGE = np.array(SEVEN["instances"], np.float32)
PREDICT = "/v1/models/digits:predict"


def model_flags(path: str | Path = "s3://models/digits", name: str = "digits") -> list[str]:
    return ["--model_name", name, "--model_path", str(path)]


def test_a_bucket_answers_alike_over_rest_grpc_and_lambda(s3: SeaweedFS, tmp_path: Path) -> None:
    env = s3.reader.env()
    with decant_serve(tmp_path / "serve", *model_flags(), env=env) as server:
        reply = server.post(PREDICT, SEVEN)
        over_grpc = OvmsClient(server.grpc_address).predict("digits", {"image": IMAGE})
        over_http = OvmsClient(f"127.0.0.1:{server.rest_port}", "http").predict("digits", {"image": IMAGE})
        assert server.terminate() == 0
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    (prediction,) = reply.body["predictions"]
    assert prediction["digit"] == 7

    lambda_env = {"DECANT_MODEL_NAME": "digits", "DECANT_MODEL_PATH": "s3://models/digits", **env}
    lambda_env["DECANT_CACHE_DIR"] = str(tmp_path / "lambda" / "cache")
    (tmp_path / "lambda").mkdir()
    with lambda_emulator(tmp_path / "lambda", env=lambda_env) as function:
        result = function.invoke(function_url("POST", PREDICT, {}, {}, json.dumps(SEVEN).encode()))
    assert json.loads(response_body(result)) == reply.body

    want = np.array([prediction["probabilities"]], np.float32)
    for outputs in (over_grpc, over_http):
        assert outputs["digit"].tolist() == [7]
        np.testing.assert_array_equal(outputs["probabilities"].astype(np.float32), want)


def test_every_kind_of_event_reaches_the_model(s3: SeaweedFS, tmp_path: Path) -> None:
    env = {"DECANT_MODEL_NAME": "digits", "DECANT_MODEL_PATH": "s3://models/digits", **s3.reader.env()}
    env["DECANT_CACHE_DIR"] = str(tmp_path / "cache")
    with lambda_emulator(tmp_path, env=env) as function:
        for shape in EVENT_BUILDERS.values():
            result = function.invoke(shape("POST", PREDICT, {}, {}, json.dumps(SEVEN).encode()))
            assert result["statusCode"] == 200
            assert json.loads(response_body(result))["predictions"][0]["digit"] == 7
            result = function.invoke(shape("GET", "/v1/models/digits/versions/1/metadata", {}, {}, b""))
            assert json.loads(response_body(result))["model_spec"]["version"] == "1"
            result = function.invoke(shape("GET", "/v1/models/other", {}, {}, b""))
            assert result["statusCode"] == 404
            result = function.invoke(shape("POST", PREDICT, {}, {}, b'{"instances": [[1, 2], [3]]}'))
            assert result["statusCode"] == 400
            assert "Expecting tensor size: 2 but got: 1" in json.loads(response_body(result))["error"]


def test_a_function_without_a_model_fails_in_its_init_phase(tmp_path: Path) -> None:
    with lambda_emulator(tmp_path) as function:
        result = function.invoke(function_url("GET", "/v2/health/live", {}, {}, b""))
    assert "no model is given; want --model_path or DECANT_MODEL_PATH" in json.dumps(result)


def test_ovms_clients_read_status_and_metadata(s3: SeaweedFS, tmp_path: Path) -> None:
    with decant_serve(tmp_path, *model_flags(), env=s3.reader.env()) as server:
        metadata = OvmsClient(server.grpc_address).metadata("digits")
        assert metadata["inputs"] == {"image": {"shape": [-1, 8, 8], "dtype": "DT_FLOAT"}}
        assert metadata["outputs"]["digit"] == {"shape": [-1], "dtype": "DT_INT64"}
        for client in (OvmsClient(server.grpc_address), OvmsClient(f"127.0.0.1:{server.rest_port}", "http")):
            assert client.status("digits")[1]["state"] == "AVAILABLE"
            with pytest.raises(OvmsClientError) as caught:
                client.predict("digits", {"image": IMAGE[:, :4]})
            assert "input 'image' has shape (1, 4, 8); want (-1, 8, 8)" in caught.value.message
            with pytest.raises(OvmsClientError) as caught:
                client.status("other")
            assert caught.value.kind == "ModelNotFoundError"


def test_an_onnx_model_with_real_weights_is_served(s3: SeaweedFS, tmp_path: Path) -> None:
    import magika

    (model,) = Path(magika.__file__).parent.glob("models/standard_v3_*/model.onnx")
    s3.client().put_object(Bucket="models", Key="magika/3/model.onnx", Body=model.read_bytes())
    # The tokens of magika's input are bytes, or 256 for none.
    body = {"instances": [[256] * 2048]}
    with decant_serve(tmp_path, *model_flags("s3://models/magika", "magika"), env=s3.reader.env()) as server:
        reply = server.post("/v1/models/magika/versions/3:predict", body)
        assert reply.status == 200
        (scores,) = reply.body["predictions"]
        assert sum(scores) == pytest.approx(1, abs=1e-2)
        assert server.terminate() == 0
    (line,) = [line for line in server.log().splitlines() if "ready:" in line]
    assert "ready: magika/3 on REST 127.0.0.1" in line


def test_a_second_start_finds_the_download_of_the_first(s3: SeaweedFS, tmp_path: Path) -> None:
    with FaultProxy(s3.endpoint) as proxy:
        env = dataclasses.replace(s3.reader, endpoint=proxy.url).env()
        for start in ("first", "second"):
            flags = [*model_flags(), "--cache_dir", str(tmp_path / "cache")]
            with decant_serve(tmp_path / start, *flags, env=env) as server:
                assert server.post(PREDICT, SEVEN).body["predictions"][0]["digit"] == 7
                assert server.terminate() == 0
        assert proxy.count("GET", r"model\.bin") == 1


@pytest.mark.parametrize(
    ("path", "want"),
    [
        (
            "s3://models/nothing",
            "cannot start digits from s3://models/nothing: Servable not found for request: Latest(digits)",
        ),
        ("s3://private/digits", "cannot list s3://private/digits: AccessDenied"),
    ],
)
def test_a_bucket_without_the_model_fails_the_start_in_one_line(
    path: str, want: str, s3: SeaweedFS, tmp_path: Path
) -> None:
    s3.create_bucket("private")
    with decant_serve(tmp_path, *model_flags(path), env=s3.reader.env(), wait=False) as server:
        assert server.process.wait(30) == 3
    (line,) = server.log().splitlines()
    assert want in line


def test_a_missing_bucket_fails_the_start_in_one_line(s3: SeaweedFS, tmp_path: Path) -> None:
    with decant_serve(tmp_path, *model_flags("s3://no-such-bucket/m"), env=s3.admin.env(), wait=False) as server:
        assert server.process.wait(30) == 3
    (line,) = server.log().splitlines()
    assert "cannot list s3://no-such-bucket/m: NoSuchBucket" in line


def test_no_network_fails_the_start_in_one_line(s3: SeaweedFS, tmp_path: Path) -> None:
    env = dataclasses.replace(s3.reader, endpoint="http://127.0.0.1:9").env()
    with decant_serve(tmp_path, *model_flags(), env=env, wait=False) as server:
        assert server.process.wait(30) == 3
    (line,) = server.log().splitlines()
    assert "cannot list s3://models/digits: " in line
    assert "Connection refused" in line


def test_an_object_that_may_not_be_read_fails_the_start_with_its_key(s3: SeaweedFS, tmp_path: Path) -> None:
    with FaultProxy(s3.endpoint) as proxy:
        proxy.use(on(ACCESS_DENIED, path=r"model\.bin"))
        env = dataclasses.replace(s3.reader, endpoint=proxy.url).env()
        with decant_serve(tmp_path, *model_flags(), env=env, wait=False) as server:
            assert server.process.wait(30) == 3
    (line,) = server.log().splitlines()
    assert (
        "cannot start digits from s3://models/digits: cannot fetch s3://models/digits/1/model.bin: AccessDenied" in line
    )


def test_a_download_cut_in_the_middle_is_tried_again_and_never_half_served(s3: SeaweedFS, tmp_path: Path) -> None:
    with FaultProxy(s3.endpoint) as proxy:
        proxy.use(on(Cut(after=10_000), path=r"model\.bin", nth=1))
        env = dataclasses.replace(s3.reader, endpoint=proxy.url).env()
        with decant_serve(tmp_path, *model_flags(), env=env) as server:
            assert server.post(PREDICT, SEVEN).body["predictions"][0]["digit"] == 7
        assert proxy.count("GET", r"model\.bin") == 2
    (version,) = (tmp_path / "cache").iterdir()
    assert (version / "model.bin").read_bytes() == (DIGITS / "1" / "model.bin").read_bytes()


def test_a_download_that_is_always_cut_fails_and_leaves_nothing_that_looks_whole(s3: SeaweedFS, tmp_path: Path) -> None:
    with FaultProxy(s3.endpoint) as proxy:
        proxy.use(on(Cut(after=0), path=r"model\.bin"))
        env = dataclasses.replace(s3.reader, endpoint=proxy.url).env()
        with decant_serve(tmp_path, *model_flags(), env=env, wait=False) as server:
            assert server.process.wait(60) == 3
    # What has come of the other file is there for the next to go on with.
    assert [path.name[:9] for path in (tmp_path / "cache").iterdir()] == [".partial-"]
    assert "cannot fetch s3://models/digits/1/model.bin" in server.log()


def test_a_version_that_cannot_be_fetched_while_serving_is_a_503_and_can_be_had_later(
    s3: SeaweedFS, tmp_path: Path
) -> None:
    s3.put_tree("models", "two/1", DIGITS / "1")
    s3.put_tree("models", "two/2", DIGITS / "1")
    # Other bytes than version 2's, or what is on disk for that would do.
    s3.client().put_object(Bucket="models", Key="two/1/mapping_config.json", Body=b"{}")
    with FaultProxy(s3.endpoint) as proxy:
        env = dataclasses.replace(s3.reader, endpoint=proxy.url).env()
        with decant_serve(tmp_path, *model_flags("s3://models/two"), env=env) as server:
            proxy.use(on(INTERNAL_ERROR))
            reply = server.post("/v1/models/digits/versions/1:predict", SEVEN)
            assert reply.status == 503
            assert reply.headers["retry-after"] == "1"
            # Where it is stored is for the log.
            assert "s3://" not in reply.body["error"]
            assert "cannot fetch s3://models/two/1/" in server.log()
            # What is loaded does not care.
            assert server.post(PREDICT, SEVEN).status == 200
            proxy.use()
            # That it could not be had is remembered for two seconds.
            until(lambda: server.post("/v1/models/digits/versions/1:predict", SEVEN).status == 200)


def test_a_corrupt_newest_version_is_told_of_and_the_one_before_serves(s3: SeaweedFS, tmp_path: Path) -> None:
    s3.put_tree("models", "half/1", DIGITS / "1")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model.xml").write_bytes((DIGITS / "1" / "model.xml").read_bytes())
    (broken / "model.bin").write_bytes((DIGITS / "1" / "model.bin").read_bytes()[:1000])
    s3.put_tree("models", "half/2", broken)
    with decant_serve(tmp_path / "serve", *model_flags("s3://models/half"), env=s3.reader.env()) as server:
        assert server.post(PREDICT, SEVEN).body["predictions"][0]["digit"] == 7
        reply = server.post("/v1/models/digits/versions/2:predict", SEVEN)
        assert reply.status == 503
        assert "cannot load digits/2 from model.xml: Incorrect weights in bin file!" in reply.body["error"]
        second, first = server.get("/v1/models/digits").body["model_version_status"]
        assert (first["version"], first["state"]) == ("1", "AVAILABLE")
        assert (second["version"], second["state"]) == ("2", "END")
        assert "Incorrect weights" in second["status"]["error_message"]
        assert str(tmp_path) not in reply.body["error"]


def test_a_model_that_is_corrupt_altogether_leaves_the_server_up_and_not_ready(tmp_path: Path) -> None:
    (tmp_path / "model" / "1").mkdir(parents=True)
    (tmp_path / "model" / "1" / "model.xml").write_text("<net>")
    with decant_serve(tmp_path / "serve", *model_flags(tmp_path / "model"), wait=False) as server:
        server.process.wait_until(lambda: "not ready" in server.log(), 30)
        assert server.get("/v2/health/live").status == 200
        assert server.get("/v2/health/ready").status == 503
        (status,) = server.get("/v1/models/digits").body["model_version_status"]
        assert status["state"] == "END"
        assert status["status"]["error_code"] == "FAILED_PRECONDITION"
        assert "cannot load digits/1 from model.xml" in status["status"]["error_message"]
        assert server.post(PREDICT, SEVEN).status == 503
        with pytest.raises(OvmsClientError) as caught:
            OvmsClient(server.grpc_address).predict("digits", {"image": IMAGE})
        assert "cannot load digits/1" in caught.value.message
        assert server.terminate() == 0


@pytest.mark.parametrize("front", ["REST", "gRPC"])
def test_a_port_that_is_taken_fails_the_start(front: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        flags = ["--rest_port", port, "--port", "0"] if front == "REST" else ["--port", port]
        with decant_serve(tmp_path, *model_flags(DIGITS), *flags, wait=False) as server:
            assert server.process.wait(30) == 3
    assert any("cannot start digits from " in line and port in line for line in server.log().splitlines())


def test_an_object_that_changes_while_it_is_first_fetched_is_listed_anew(s3: SeaweedFS, tmp_path: Path) -> None:
    s3.put_tree("models", "moving/1", DIGITS / "1")
    xml = (DIGITS / "1" / "model.xml").read_bytes() + b"<!-- uploaded again -->"
    with FaultProxy(s3.endpoint) as proxy:
        upload = Before(lambda: s3.client().put_object(Bucket="models", Key="moving/1/model.xml", Body=xml))
        proxy.use(on(upload, "GET", r"model\.xml", nth=1))
        env = dataclasses.replace(s3.reader, endpoint=proxy.url).env()
        # Uploads have to settle for as long as a listing is believed.
        flags = [*model_flags("s3://models/moving"), "--file_system_poll_wait_seconds", "1"]
        with decant_serve(tmp_path, *flags, env=env) as server:
            assert server.post(PREDICT, SEVEN).body["predictions"][0]["digit"] == 7
    (version,) = (tmp_path / "cache").iterdir()
    assert (version / "model.xml").read_bytes() == xml


def test_two_servers_share_a_cache_directory_and_neither_removes_what_the_other_uses(
    s3: SeaweedFS, tmp_path: Path
) -> None:
    for version in ("1", "2"):
        s3.put_tree("models", f"two-servers/{version}", DIGITS / "1")
        s3.client().put_object(Bucket="models", Key=f"two-servers/{version}/mapping_config.json", Body=version.encode())
    # Room for one version.
    flags = [*model_flags("s3://models/two-servers"), "--disk_budget", "50K", "--cache_dir", str(tmp_path / "cache")]
    with FaultProxy(s3.endpoint) as proxy:
        env = dataclasses.replace(s3.reader, endpoint=proxy.url).env()
        with decant_serve(tmp_path / "a", *flags, env=env, without_grpc=True) as first:
            with decant_serve(tmp_path / "b", *flags, env=env, without_grpc=True) as second:
                assert [server.post(PREDICT, SEVEN).status for server in (first, second)] == [200, 200]
                assert proxy.count("GET", r"model\.bin") == 1
                reply = first.post("/v1/models/digits/versions/1:predict", SEVEN)
                assert reply.status == 503
                assert "bytes of disk" in reply.body["error"]
                # The first has let go of it, to no avail, and has it back at once: it is still there.
                assert [server.post(PREDICT, SEVEN).status for server in (first, second)] == [200, 200]
                assert proxy.count("GET", r"model\.bin") == 1
                assert second.terminate() == 0
            assert first.post("/v1/models/digits/versions/1:predict", SEVEN).status == 200
            assert proxy.count("GET", r"model\.bin") == 2
