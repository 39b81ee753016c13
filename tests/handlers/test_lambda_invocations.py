"""Events that are no HTTP requests: objects, messages and notifications, sound and hostile."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from handlers.build import build_server
from handlers.configuration import models_of
from handlers.lambda_failures import InvocationFailed
from handlers.lambda_function import Function
from handlers.lambda_invocations import Invocations, Served
from handlers.reload import Reload
from handlers.settings import read_settings
from runtime.contract import Contract
from runtime.server import ModelServer
from tests.conftest import DIGITS
from tests.handlers.test_lambda_failures import Context, metrics_of
from tests.runtime import models
from tests.servers.fault_proxy import FaultProxy, Stall, on
from tests.servers.seaweedfs import SeaweedFS

INSTANCES = json.loads((DIGITS / "seven.json").read_bytes())["instances"]
ASKED = {"model": "digits", "instances": INSTANCES}


@contextmanager
def serving(tmp_path: Path, *, is_lazy: bool = False, **flags: str) -> Iterator[tuple[Function, ModelServer]]:
    flags.setdefault("cache_dir", str(tmp_path / "cache"))
    settings = read_settings({"file_system_poll_wait_seconds": "0.1", **flags})
    configuration = models_of(settings)
    with closing(build_server(settings, configuration)) as server:
        reload = Reload(server, settings, configuration, is_lazy=is_lazy)
        served = Served(settings, server, lambda: reload.told, is_lazy, reload.refresh)
        contract = Contract(server, max_body=settings.max_body_size)
        made = Function(contract, None, lambda: Invocations(served, made.infer))
        yield made, server


@pytest.fixture(scope="module")
def function(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    tmp_path = tmp_path_factory.mktemp("function")
    outputs = f"file://{tmp_path}/answers"
    base = str(DIGITS)
    with serving(
        tmp_path, model_name="digits", model_path=base, version_labels='{"stable": 1}', lambda_outputs=outputs
    ) as (made, _):
        yield made


@pytest.fixture
def answers(function: Function) -> Path:
    assert function._invocations is not None
    return Path(function._invocations.served.settings.lambda_outputs[0].removeprefix("file://"))


def two(tmp_path: Path, *bases: str) -> str:
    configs = [{"config": {"name": f"m{number}", "base_path": base}} for number, base in enumerate(bases)]
    (tmp_path / "models.json").write_text(json.dumps({"model_config_list": configs}))
    return str(tmp_path / "models.json")


def failure_of(function: Function, event: Any, context: Any = None) -> InvocationFailed:
    with pytest.raises(InvocationFailed) as failure:
        function(event, context)
    # Nothing of ours in what Lambda tells the caller.
    assert failure.value.trace == []
    return failure.value


@pytest.mark.parametrize(
    "more", [{}, {"version": 1}, {"version": "1"}, {"label": "stable"}, {"signature_name": "serving_default"}]
)
def test_an_object_is_answered_with_rests_object(more: dict[str, Any], function: Function) -> None:
    answer = function({**ASKED, **more}, Context())
    assert answer["predictions"][0]["digit"] == 7
    assert len(answer["predictions"][0]["probabilities"]) == 10


def test_the_only_model_need_not_be_named(function: Function, tmp_path: Path) -> None:
    assert function({"inputs": {"image": INSTANCES}}, None)["outputs"]["digit"] == [7]
    with serving(tmp_path, model_config_file=two(tmp_path, str(DIGITS), str(DIGITS)), is_lazy=True) as (several, _):
        failure = failure_of(several, {"instances": INSTANCES})
    assert failure.exception_type == "InvalidRequest"
    assert failure.msg == '2 models are served; want {"model": "name"} to say which'


def test_status_and_metadata_are_answered_too(function: Function) -> None:
    status = function({"model": "digits", "method": "status"}, None)
    assert status["model_version_status"][0]["state"] == "AVAILABLE"
    metadata = function({"model": "digits", "method": "metadata", "label": "stable"}, None)
    assert metadata["model_spec"]["version"] == "1"


@pytest.mark.parametrize(
    ("event", "kind", "message"),
    [
        ({**ASKED, "model": "other"}, "ModelNotFound", "Servable not found for request: Latest(other)"),
        ({**ASKED, "model": "a/../b:c\ud800"}, "ModelNotFound", "Servable not found"),
        ({**ASKED, "model": ""}, "InvalidRequest", "model is ''; want a name"),
        ({**ASKED, "model": 5}, "InvalidRequest", "model is 5; want a name"),
        ({**ASKED, "version": 7}, "ModelNotFound", "Specific(digits, 7)"),
        ({**ASKED, "version": True}, "InvalidRequest", "version is true; want a number"),
        ({**ASKED, "version": "1/../2"}, "InvalidRequest", "want a number"),
        ({**ASKED, "version": "²"}, "InvalidRequest", "want a number"),
        ({**ASKED, "version": -1}, "InvalidRequest", "want a number"),
        ({**ASKED, "version": 1, "label": "stable"}, "InvalidRequest", "version and label are both given"),
        ({**ASKED, "label": "canary"}, "InvalidRequest", "canary"),
        ({**ASKED, "label": ["canary"]}, "InvalidRequest", "want a name"),
        ({**ASKED, "method": "delete"}, "InvalidRequest", "method is 'delete'; want one of predict, classify"),
        ({**ASKED, "method": ["x" * 5000] * 5000}, "InvalidRequest", "want one of predict"),
        ({**ASKED, "output": 5}, "InvalidRequest", "output is 5; want a URL"),
        ({**ASKED, "signature_name": "other"}, "InvalidRequest", '"other" not found'),
        ({"model": "digits"}, "InvalidRequest", "Missing 'inputs' or 'instances' key"),
        ({"instances": [[1, 2], [3]]}, "InvalidRequest", "Expecting tensor size: 2 but got: 1"),
        ({"instances": [[[1 << 80] * 8] * 8]}, "", ""),
        ({"warmup": "yes"}, "UnknownEvent", "the event is an object with 'warmup'; want"),
        ({"doctor": 1}, "UnknownEvent", "the event is an object with 'doctor'"),
        ({"source": "aws.ec2", "detail-type": "x"}, "UnknownEvent", "from 'aws.ec2'"),
        ({"Records": []}, "UnknownEvent", "'Records'"),
        ({"Records": [5]}, "UnknownEvent", "'Records'"),
        ({"Records": [{}] * 10_001}, "InvalidRequest", "the event has 10001 records; want 10000 at most"),
        ({"Records": [{"eventSource": "aws:sqs"}, {"eventSource": "aws:s3"}]}, "UnknownEvent", "'Records'"),
        ({"Records": [{"eventSource": "aws:sqs", "body": "{}"}]}, "InvalidRequest", "has no messageId"),
        ({"Records": [{"EventSource": "aws:sns"}]}, "InvalidRequest", "has no message"),
        ({"Records": [{"EventSource": "aws:sns", "Sns": {"Message": "[" * 100_000}}]}, "InvalidRequest", "no JSON"),
        ({"Records": [{"eventSource": "aws:s3"}]}, "InvalidRequest", "names no bucket or no key"),
        ({"Records": [{"eventSource": "aws:s3", "s3": {"bucket": 5}}]}, "InvalidRequest", "names no bucket"),
        ({"source": "aws.s3", "detail-type": "Object Created", "detail": []}, "InvalidRequest", "names no bucket"),
        ({"a" * 5000: 1}, "UnknownEvent", "the event is an object with 'aaa"),
        (None, "UnknownEvent", "the event is of type NoneType"),
        ([ASKED], "UnknownEvent", "the event is of type list"),
    ],
)
def test_what_is_wrong_is_raised_with_a_type_and_rests_text(
    event: Any, kind: str, message: str, function: Function, capsys: pytest.CaptureFixture[str]
) -> None:
    if not kind:
        # Floats may be as large as they like.
        assert "predictions" in function(event, None)
        return
    failure = failure_of(function, event, Context())
    assert failure.exception_type == kind
    assert message in failure.msg
    assert len(failure.msg) < 1100
    (told,) = metrics_of(capsys.readouterr().out)
    assert told["ClientErrors"] == 1
    assert kind == "UnknownEvent" or told["line"]["status"] in (400, 404)


def test_numbers_that_are_none_come_and_go_as_in_rest(tmp_path: Path) -> None:
    models.save(models.doubler(), tmp_path / "models")
    with serving(tmp_path, model_name="doubler", model_path=str(tmp_path / "models")) as (function, _):
        (row,) = function({"instances": [[math.inf, 1.5]]}, None)["predictions"]
        assert row == [math.inf, 3.0]
        (row,) = function({"instances": [[math.nan, 1e300]]}, None)["predictions"]
        assert math.isnan(row[0])


def test_an_answer_is_written_where_it_is_asked_to_be(function: Function, answers: Path) -> None:
    url = f"file://{answers}/a/b.json"
    answer = function({**ASKED, "output": url}, None)
    written = (answers / "a" / "b.json").read_bytes()
    assert answer == {"output": url, "bytes": len(written)}
    assert json.loads(written)["predictions"][0]["digit"] == 7


@pytest.mark.parametrize(
    "key", ["../secret", "a/../../secret", "", "a//b", "a/", "./a", "a\nb", "x" * 901, "../answersx/a"]
)
def test_nothing_is_written_outside(key: str, function: Function, answers: Path) -> None:
    failure = failure_of(function, {**ASKED, "output": f"file://{answers}/{key}"})
    assert "want a URL below one of lambda_outputs" in failure.msg
    assert not (answers.parent / "secret").exists()
    assert "below one of" in failure_of(function, {**ASKED, "output": f"file://{answers}x/a"}).msg
    assert "below one of" in failure_of(function, {**ASKED, "output": f"file://{answers}xa"}).msg
    # The bucket's own models, for example.
    assert "below one of" in failure_of(function, {**ASKED, "output": "s3://my-models/vision/digits/2/model.xml"}).msg


def test_no_answer_takes_the_place_of_a_models_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        models.save(models.doubler(), tmp_path / "models" / name)
    file = two(tmp_path, f"{tmp_path}/models/one", f"file://{tmp_path}/models/two/")
    outputs = f"file://{tmp_path}/models,file://{tmp_path}/models/two,file://{tmp_path}"
    with serving(tmp_path, model_config_file=file, is_lazy=True, lambda_outputs=outputs) as (function, _):
        for key in ("models/one/2/model.xml", "models/two/1/model.xml", "models/two", "models.json"):
            before = (tmp_path / "models.json").read_bytes()
            event = {"model": "m0", "instances": [[1.0, 2.0]], "output": f"file://{tmp_path}/{key}"}
            failure = failure_of(function, event)
            assert failure.msg.endswith("; want a place that has no files of models")
            assert (tmp_path / "models.json").read_bytes() == before
        function(event | {"output": f"file://{tmp_path}/models/one-more.json"}, None)
    assert (tmp_path / "models" / "one-more.json").exists()
    assert not (tmp_path / "models" / "one" / "2").exists()


def test_a_function_that_writes_nothing_says_so(tmp_path: Path) -> None:
    with serving(tmp_path, model_name="digits", model_path=str(DIGITS)) as (function, _):
        failure = failure_of(function, {**ASKED, "output": "s3://answers/a"})
    assert failure.msg == "output is given, and this function writes nothing; see lambda_outputs"


def test_a_role_that_may_not_write_is_told_and_not_where(
    s3: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in s3.reader.env().items():
        monkeypatch.setenv(name, value)
    base, outputs = str(DIGITS), "s3://models/answers"
    with serving(tmp_path, model_name="digits", model_path=base, lambda_outputs=outputs) as (function, _):
        failure = failure_of(function, {**ASKED, "output": "s3://models/answers/a.json"})
    assert failure.exception_type == "Unavailable"
    assert failure.msg == "the answer cannot be written to its output; the log says why"
    assert "AccessDenied" in caplog.text or "403" in caplog.text


def message(number: int, body: Any, queue: str = "q") -> dict[str, Any]:
    text = body if isinstance(body, str) else json.dumps(body)
    return {
        "messageId": f"m{number}",
        "body": text,
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:us-east-1:123456789012:{queue}",
    }


def failed_in(answer: Mapping[str, Any]) -> list[str]:
    return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]


POISON: Mapping[str, Any] = {
    "no JSON": "no JSON",
    "too deep": "[" * 100_000,
    "no object": [1, 2],
    "no place for the answer": ASKED,
    "another place": {**ASKED, "output": "s3://my-models/vision/digits/2/model.xml"},
    "no such model": {**ASKED, "model": "other"},
    "unknown": {"a": 1},
    "a notification that is none": {"Records": [{"eventSource": "aws:s3"}]},
    "an envelope with nothing in it": {"Type": "Notification"},
    "an envelope in an envelope": {"Type": "Notification", "Message": '{"Type": "Notification", "Message": "{}"}'},
}


@pytest.mark.parametrize("name", POISON)
def test_of_a_batch_only_what_fails_goes_back(
    name: str, function: Function, answers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = POISON[name]
    if isinstance(body, dict) and body.get("model") == "other":
        body = {**body, "output": f"file://{answers}/other.json"}
    good = [{**ASKED, "output": f"file://{answers}/{name}/{number}.json"} for number in (1, 2)]
    event = {"Records": [message(1, good[0]), message(2, body), message(3, good[1])]}
    assert failed_in(function(event, Context())) == ["m2"]
    assert sorted(path.name for path in (answers / name).iterdir()) == ["1.json", "2.json"]
    (told,) = metrics_of(capsys.readouterr().out)
    assert told["ClientErrors"] == 1
    assert "1 of 3 messages have failed" in told["line"]["error"]


def test_a_batch_of_which_nothing_succeeds_is_an_error(function: Function, capsys: pytest.CaptureFixture[str]) -> None:
    failure = failure_of(function, {"Records": [message(1, ASKED), message(2, "no JSON")]}, Context())
    assert failure.exception_type == "BatchFailed"
    assert failure.msg.startswith("2 of 2 messages have failed, the first with InvalidRequest: nobody waits for the")
    assert metrics_of(capsys.readouterr().out)[0]["ClientErrors"] == 2


def test_a_place_that_is_none_fails_its_message_alone(tmp_path: Path) -> None:
    outputs = f"s3://me@models/x,file://{tmp_path}/answers"
    with serving(tmp_path, model_name="digits", model_path=str(DIGITS), lambda_outputs=outputs) as (function, _):
        bodies = [{**ASKED, "output": f"{place}/a.json"} for place in outputs.split(",")]
        event = {"Records": [message(number, body) for number, body in enumerate(bodies)]}
        assert failed_in(function(event, Context())) == ["m0"]
    assert (tmp_path / "answers" / "a.json").exists()


def test_in_a_queue_with_an_order_nothing_overtakes_what_has_failed(
    function: Function, answers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [{**ASKED, "output": f"file://{answers}/fifo/{number}.json"} for number in range(3)]
    bodies: list[Any] = [asked[0], "no JSON", asked[1], asked[2]]
    event = {"Records": [message(number, body, "q.fifo") for number, body in enumerate(bodies)]}
    assert failed_in(function(event, Context())) == ["m1", "m2", "m3"]
    assert [path.name for path in (answers / "fifo").iterdir()] == ["0.json"]
    # What waits behind it has not failed.
    (told,) = metrics_of(capsys.readouterr().out)
    line = told.pop("line")
    assert told == {"ClientErrors": 1}
    assert line["error"].startswith("1 of 4 messages have failed, and 2 behind it wait; the first with InvalidRequest")
    failure = failure_of(function, {"Records": [message(1, "no JSON", "q.fifo"), message(2, asked[0], "q.fifo")]})
    assert (failure.exception_type, failure.counts) == ("BatchFailed", {"ClientErrors": 1})


def test_models_of_messages_that_could_not_be_loaded_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken" / "1").mkdir(parents=True)
    (tmp_path / "broken" / "1" / "model.xml").write_text("<no model>")
    (tmp_path / "broken" / "1" / "model.bin").write_bytes(b"")
    file, outputs = two(tmp_path, str(DIGITS), str(tmp_path / "broken")), f"file://{tmp_path}/answers"
    with serving(tmp_path, model_config_file=file, is_lazy=True, lambda_outputs=outputs) as (function, _):
        asked = [{**ASKED, "model": name, "output": f"{outputs}/{name}.json"} for name in ("m1", "m0")]
        event = {"Records": [message(0, "no JSON"), message(1, asked[0]), message(2, asked[1])]}
        assert failed_in(function(event, Context())) == ["m0", "m1"]
    (told,) = metrics_of(capsys.readouterr().out)
    del told["line"]
    assert told == {"ClientErrors": 1, "ServerErrors": 1, "ModelLoadFailures": 1}


def test_messages_for_which_there_is_no_time_go_back(function: Function, answers: Path) -> None:
    class Late(Context):
        def get_remaining_time_in_millis(self) -> int:
            return 0

    asked = {**ASKED, "output": f"file://{answers}/late.json"}
    failure = failure_of(function, {"Records": [message(1, asked)]}, Late())
    assert "there was no time left for it" in failure.msg
    assert not (answers / "late.json").exists()


def created(bucket: str, *keys: str) -> dict[str, Any]:
    records = [
        {
            "eventSource": "aws:s3",
            "eventName": "ObjectCreated:Put",
            "s3": {"bucket": {"name": bucket}, "object": {"key": key}},
        }
        for key in keys
    ]
    return {"Records": records}


@pytest.fixture
def become(s3: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> SeaweedFS:
    for name, value in s3.admin.env().items():
        monkeypatch.setenv(name, value)
    return s3


def test_a_version_that_comes_is_loaded_and_one_that_goes_is_forgotten(become: SeaweedFS, tmp_path: Path) -> None:
    become.put_tree("models", "coming/1", DIGITS / "1")
    with serving(tmp_path, model_name="digits", model_path="s3://models/coming") as (function, server):
        assert function(ASKED, None)["predictions"][0]["digit"] == 7
        keys = become.put_tree("models", "coming/2", DIGITS / "1")
        answer = function(created("models", *keys), Context())
        assert answer["models"] == {"digits": {"versions": ["2", "1"], "loaded": "2"}}
        # It is there before anybody asks.
        assert server.peek("digits") == ("digits", 2)
        for key in keys:
            become.client().delete_object(Bucket="models", Key=key)
        answer = function(created("models", *keys), Context())
        assert answer["models"]["digits"]["versions"] == ["1"]
        assert function(ASKED, None)["predictions"][0]["digit"] == 7


def test_a_version_that_is_broken_is_told_and_not_served(become: SeaweedFS, tmp_path: Path) -> None:
    become.put_tree("models", "broken/1", DIGITS / "1")
    with serving(tmp_path, model_name="digits", model_path="s3://models/broken") as (function, _):
        function(ASKED, None)
        become.client().put_object(Bucket="models", Key="broken/2/model.xml", Body=b"<no model>")
        become.client().put_object(Bucket="models", Key="broken/2/model.bin", Body=b"")
        answer = function(created("models", "broken/2/model.xml"), Context())
        assert answer["models"]["digits"]["loaded"] == "1"
        assert answer["models"]["digits"]["error"].startswith("version 2: ")
        assert function(ASKED, None)["predictions"][0]["digit"] == 7


def test_only_models_whose_files_they_are_are_looked_at(become: SeaweedFS, tmp_path: Path) -> None:
    become.put_tree("models", "two/a b/1", DIGITS / "1")
    become.put_tree("models", "two/ab/1", DIGITS / "1")
    file = two(tmp_path, "s3://models/two/a b", "s3://models/two/ab")
    with serving(tmp_path, model_config_file=file, is_lazy=True) as (function, server):
        answer = function(created("models", "two/a+b/1/model.xml", "two/abc/1/model.xml"), Context())
        # As nobody has asked for it, it is not loaded.
        assert answer["models"] == {"m0": {"versions": ["1"], "loaded": None}}
        assert answer["ignored"] == ["s3://models/two/abc/1/model.xml"]
        assert server.repositories["m1"].known is None
        other = function(created("another", "two/ab/1/model.xml"), Context())
        assert (other["models"], other["ignored_count"]) == ({}, 1)
        many = function(created("another", *(f"{number}" for number in range(1000))), Context())
        assert (len(many["ignored"]), many["ignored_count"]) == (20, 1000)


def test_the_file_with_the_models_is_read_anew_when_it_changes(become: SeaweedFS, tmp_path: Path) -> None:
    def publish(*names: str) -> None:
        configs = [{"config": {"name": name, "base_path": "s3://models/digits"}} for name in names]
        body = json.dumps({"model_config_list": configs}).encode()
        become.client().put_object(Bucket="models", Key="configured/models.json", Body=body)

    publish("one")
    with serving(tmp_path, model_config_file="s3://models/configured/models.json", is_lazy=True) as (function, server):
        publish("one", "digits")
        assert function(created("models", "configured/models.json"), Context())["ignored"] == []
        assert server.repositories.keys() == {"one", "digits"}
        assert function(ASKED, None)["predictions"][0]["digit"] == 7
        # Below a model's place, too, where it is none of its files.
        configs = [{"config": {"name": "above", "base_path": "s3://models/configured"}}]
        body = json.dumps({"model_config_list": configs}).encode()
        for names in (["above"], ["above", "digits"]):
            if "digits" in names:
                configs.append({"config": {"name": "digits", "base_path": "s3://models/digits"}})
                body = json.dumps({"model_config_list": configs}).encode()
            become.client().put_object(Bucket="models", Key="configured/models.json", Body=body)
            answer = function(created("models", "configured/models.json"), Context())
            assert answer == {"models": {}, "ignored": [], "ignored_count": 0}
            assert list(server.repositories) == names


def test_a_bucket_that_cannot_be_read_is_tried_again_by_lambda(become: SeaweedFS, tmp_path: Path) -> None:
    with serving(tmp_path, model_name="digits", model_path="s3://nowhere/digits") as (function, _):
        failure = failure_of(function, created("nowhere", "digits/1/model.xml"), Context())
        assert failure.exception_type == "Unavailable"
        assert "the model's storage cannot be read now" in failure.msg
        # In a queue likewise: both messages go back, having been looked at once.
        records = [message(number, created("nowhere", "digits/1/model.xml")) for number in (1, 2)]
        assert "2 of 2 messages have failed" in failure_of(function, {"Records": records}, Context()).msg


def test_a_ping_loads_what_should_be_and_brings_it_up_to_date(tmp_path: Path) -> None:
    base = tmp_path / "models"
    models.save(models.doubler(), base)
    with serving(tmp_path, model_name="doubler", model_path=str(base)) as (function, server):
        assert server.peek("doubler") is None
        assert function({"warmup": True}, Context()) == {"warm": {"doubler": "1"}, "pending": []}
        models.save(models.doubler(), base, version=2)
        assert function({"source": "serverless-plugin-warmup"}, Context()) == {"warm": {"doubler": "2"}, "pending": []}


def test_a_ping_names_what_is_not_loaded_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = two(tmp_path, str(DIGITS), str(DIGITS), str(tmp_path / "nowhere"))
    with serving(tmp_path, model_config_file=file, is_lazy=True) as (function, _):
        warm = partial(function, context=Context())
        assert warm({"warmup": True}) == {"warm": {}, "pending": []}
        assert warm({"warmup": True, "models": ["m1"]}) == {"warm": {"m1": "1"}, "pending": []}
        capsys.readouterr()
        for names, kind, text in (
            (["m2"], "Unavailable", "not warm: m2: "),
            (["m3"], "ModelNotFound", "models names 'm3', which is no model"),
            ("m1", "InvalidRequest", "models is no list of names"),
        ):
            failure = failure_of(function, {"warmup": True, "models": names}, Context())
            assert failure.exception_type == kind
            assert text in failure.msg
        assert len(metrics_of(capsys.readouterr().out)) == 3


def test_a_ping_ends_before_its_time_is_over(s3: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stall = Stall()
    with FaultProxy(s3.endpoint) as proxy:
        proxy.use(on(stall, "GET", r"model\.bin"))
        for name, value in {**s3.reader.env(), "AWS_ENDPOINT_URL_S3": proxy.url}.items():
            monkeypatch.setenv(name, value)
        with serving(tmp_path, model_name="digits", model_path="s3://models/digits") as (function, _):
            began = time.monotonic()
            assert function({"warmup": True}, Context(0.8)) == {"warm": {}, "pending": ["digits"]}
            assert time.monotonic() - began < 0.8
            # Others wait for what is under way.
            threads = threading.active_count()
            assert function({"warmup": True}, Context(0.1)) == {"warm": {}, "pending": ["digits"]}
            assert threading.active_count() == threads
            stall.released.set()
            assert function({"warmup": True}, Context()) == {"warm": {"digits": "1"}, "pending": []}


def test_a_ping_that_finds_a_dead_bucket_is_an_error(
    s3: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stall = Stall()
    with FaultProxy(s3.endpoint) as proxy:
        proxy.use(on(stall, "GET", "list-type"))
        for name, value in {**s3.reader.env(), "AWS_ENDPOINT_URL_S3": proxy.url}.items():
            monkeypatch.setenv(name, value)
        with serving(tmp_path, model_name="digits", model_path="s3://models/digits") as (function, _):
            failure = failure_of(function, {"warmup": True}, Context(0.2))
            assert failure.exception_type == "Unavailable"
            assert failure.msg == "not warm: the storage has not answered yet what there is of digits"
            stall.released.set()
            assert function({"warmup": True}, Context()) == {"warm": {"digits": "1"}, "pending": []}


def test_the_doctor_is_asked_and_ends_in_time(function: Function) -> None:
    report = function({"doctor": True}, Context())
    assert report["findings"]
    json.dumps(report)
