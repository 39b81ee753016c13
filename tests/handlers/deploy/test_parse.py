"""A manifest's text: what each field may be, and what is said of what it may not."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from handlers.deploy.manifest import Manifest, Model
from handlers.deploy.parse import MAX_MODELS, MAX_TEXT, ManifestError, parse
from handlers.deploy.templates import text as template
from tests.handlers.deploy.manifests import DIGITS, IMAGE, fields, manifest, text

LEAST = Manifest("digits", IMAGE, (Model("digits", "s3://my-models/vision/digits"),))


def refusal(document: Any) -> str:
    with pytest.raises(ManifestError) as caught:
        parse(document if isinstance(document, str) else text(document))
    return str(caught.value)


def test_what_is_left_out_is_as_by_default() -> None:
    assert parse(text(fields())) == LEAST


def test_json_is_read_too() -> None:
    assert parse(json.dumps(fields(), indent="\t")) == LEAST


def test_the_example_is_a_manifest() -> None:
    read = parse(template("models.yaml"))
    assert read == LEAST._replace(image=f"{IMAGE.partition('@')[0]}:latest", settings={"log_level": "INFO"})


def test_everything_can_be_said() -> None:
    read = manifest(
        {**DIGITS, "shape": [1, 784], "version_labels": {"stable": 1}, "lazy": True},
        {"name": "b", "base_path": "az://models/b"},
        region="eu-west-1",
        architecture="arm64",
        memory="1.5Gi",
        cpu=0.5,
        disk=512,
        concurrency=8,
        timeout=300,
        min_instances=1,
        max_instances=3,
        grpc=True,
        public=True,
        azure_account="mystorage",
        settings={"log-level": "debug", "metrics_enable": True, "metrics_list": ["a", "b"], "plugin_config": {"A": 1}},
    )
    assert read == Manifest(
        "digits",
        IMAGE,
        (
            Model("digits", DIGITS["base_path"], {"shape": [1, 784], "version_labels": {"stable": 1}, "lazy": True}),
            Model("b", "az://models/b"),
        ),
        "eu-west-1",
        "arm64",
        1536,
        0.5,
        512,
        8,
        300,
        1,
        3,
        grpc=True,
        public=True,
        azure_account="mystorage",
        settings={"log_level": "debug", "metrics_enable": "true", "metrics_list": "a,b", "plugin_config": '{"A":1}'},
        is_limited=True,
    )


@pytest.mark.parametrize(
    ("given", "mib"),
    [
        *((given, 512) for given in (512, "512", "512Mi", "512MiB", "512MB", "0.5Gi")),
        *((given, 2048) for given in ("2048M", "2Gi", "2G", "2 GB")),
        ("1.5Gi", 1536),
        ("1Ti", 1 << 20),
    ],
)
def test_memory_is_mib_or_a_size(given: object, mib: int) -> None:
    assert manifest(memory=given).memory == mib


@pytest.mark.parametrize(("given", "instances"), [(True, 1), (False, 0), (3, 3)])
def test_warm_is_how_many_instances_are_kept(given: object, instances: int) -> None:
    assert manifest(warm=given).min_instances == instances


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ("s3://b-1/vision/digits/", "s3://b-1/vision/digits"),
        ("s3://b-1", "s3://b-1"),
        ("s3://b-1//digits//", "s3://b-1/digits"),
        ("gs://my_models.example.com/a=b/c+d", "gs://my_models.example.com/a=b/c+d"),
        ("azure://models/a", "az://models/a"),
        ("/models/digits/", "/models/digits"),
        ("file:///models/a%2Bb", "/models/a+b"),
    ],
)
def test_a_path_is_written_in_one_way(given: str, want: str) -> None:
    (model,) = manifest({"name": "m", "base_path": given}, azure_account="mystorage").models
    assert model.base_path == want


@pytest.mark.parametrize("name", ["ResNet-50_v1.5", "größe", "a@b~c+d", "7", "x" * 255])
def test_models_have_the_names_that_clients_use(name: str) -> None:
    assert manifest({**DIGITS, "name": name}).models[0].name == name


@pytest.mark.parametrize(
    ("others", "complaint"),
    [
        ({"memmory": 1}, "'memmory' is unknown, memory is meant perhaps; want warm, name, image, models, region"),
        ({"qqq": 1}, "'qqq' is unknown; want "),
        ({"is_limited": True}, "'is_limited' is unknown; want "),
        ({"name": "Digits"}, "name is 'Digits'; want a name of at most 63 lower-case letters, digits and hyphens"),
        ({"name": "7"}, "name is '7'; want"),
        ({"name": "a-"}, "name is 'a-'; want"),
        ({"name": "x" * 64}, "name is 'xxx"),
        ({"name": None}, "name is null; want"),
        ({"image": "dec ant"}, "image is 'dec ant'; want an image in lower case, such"),
        ({"image": "a:b:c:d"}, "image is 'a:b:c:d'; want"),
        ({"image": "r/d:"}, "image is 'r/d:'; want"),
        ({"image": "r//d"}, "image is 'r//d'; want"),
        ({"image": "Reg/DECANT:x"}, "image is 'Reg/DECANT:x'; want an image in lower case"),
        ({"image": "user:secret@example.com/decant"}, "image is "),
        ({"image": ""}, "image is ''; want"),
        ({"models": []}, "models is []; want a list of models, each with name and base_path"),
        ({"models": {"name": "m"}}, "models is "),
        ({"models": ["m"]}, "models[0] is 'm'; want an object with name and base_path"),
        ({"region": "eu west"}, "region is 'eu west'; want a region's name, such as eu-west-1"),
        ({"architecture": "x86_64"}, "architecture is 'x86_64'; want amd64 or arm64"),
        ({"architecture": ["amd64"]}, "architecture is ['amd64']; want"),
        ({"memory": 64}, "memory is 64; want MiB, or a size such as 512Mi or 1.5Gi, from 128 to 1048576 MiB"),
        ({"memory": "2Ki"}, "memory is '2Ki'; want"),
        ({"memory": "0.3Mi"}, "memory is '0.3Mi'; want"),
        ({"memory": 1.5}, "memory is 1.5; want"),
        ({"memory": True}, "memory is true; want"),
        ({"memory": "-512Mi"}, "memory is '-512Mi'; want"),
        ({"disk": "much"}, "disk is 'much'; want"),
        ({"cpu": "2"}, "cpu is '2'; want a number of cores, such as 0.5 or 2"),
        ({"cpu": 0}, "cpu is 0; want"),
        ({"cpu": True}, "cpu is true; want"),
        ({"concurrency": 0}, "concurrency is 0; want a whole number from 1 to 1000"),
        ({"concurrency": 2.0}, "concurrency is 2.0; want"),
        ({"timeout": "60s"}, "timeout is '60s'; want a whole number from 1 to 3600"),
        ({"min_instances": True}, "min_instances is true; want a whole number from 0 to 1000"),
        ({"warm": "yes"}, "warm is 'yes'; want a whole number"),
        ({"warm": 1, "min_instances": 1}, "warm and min_instances are both given, and mean the same"),
        ({"min_instances": 11}, "min_instances is 11; want max_instances, which is 10, at most"),
        ({"grpc": "yes"}, "grpc is 'yes'; want true or false"),
        ({"public": 1}, "public is 1; want true or false"),
        ({"azure_account": "My-Account"}, "azure_account is 'My-Account'; want a storage account's name"),
    ],
)
def test_what_cannot_be_is_named_with_what_is_wanted(others: dict[str, Any], complaint: str) -> None:
    assert refusal(fields() | others).startswith(complaint)


@pytest.mark.parametrize("missing", ["name", "image", "models"])
def test_what_is_missing_is_named(missing: str) -> None:
    rest = {field: value for field, value in fields().items() if field != missing}
    assert refusal(rest).startswith(f"{missing} is missing; want ")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"name": ""}, "models[1].name is ''; want what clients call the model: letters, digits and ._+@~-"),
        ({"name": "a/b"}, "models[1].name is 'a/b'; want"),
        ({"name": "../x"}, "models[1].name is '../x'; want"),
        ({"name": 7}, "models[1].name is 7; want"),
        ({"name": "digits"}, "models[1].name is 'digits', as is models[0].name; want each name once"),
        ({"base_path": ""}, "models[1].base_path is ''; want an absolute path, s3://bucket/prefix, gs://"),
        ({"base_path": None}, "models[1].base_path is null; want"),
        ({"base_path": "models/digits"}, "models[1].base_path is 'models/digits'; want an absolute path"),
        ({"base_path": "/"}, "models[1].base_path is '/'; want"),
        ({"base_path": "/models/../etc"}, "models[1].base_path is '/models/../etc'; want a path of letters"),
        ({"base_path": "https://host/m"}, "models[1].base_path is 'https://…'; want"),
        ({"base_path": "s3://"}, "models[1].base_path names no bucket after s3://; want"),
        ({"base_path": "s3://minio:9000/models/x"}, "models[1].base_path is 's3://minio:9000/models/x'; want s3://buc"),
        ({"base_path": "s3://my-models/vision/*"}, "models[1].base_path: the prefix of s3://my-models/… cannot be"),
        ({"base_path": "s3://my-models/a/../b"}, "models[1].base_path: the prefix of s3://my-models/… cannot be"),
        ({"base_path": "s3://my-models/a b"}, "models[1].base_path: the prefix of s3://my-models/… cannot be"),
        ({"base_path": "gs://my-models/a?generation=1"}, "models[1].base_path: the prefix of gs://my-models/… cannot"),
        ({"base_path": "gs://MY/b"}, "models[1].base_path names no bucket after gs://; want"),
        ({"base_path": "az://My_Bad.Container/x"}, "models[1].base_path names no bucket after az://; want"),
        ({"base_path": "az://a--b/x"}, "models[1].base_path names no bucket after az://; want"),
        ({"base_path": "az://models/b"}, "azure_account is missing; want the storage account that the az:// models"),
        ({"batch_size": "many"}, "models[1]: batch_size is 'many'; want a number, a range such as 1:8"),
        ({"shape": 3}, "models[1]: shape is 3; want text such as"),
        ({"shap": "auto"}, "models[1]: 'shap' is unknown, shape is meant perhaps; want name, base_path, batch_"),
        ({"nireq": True}, "models[1]: nireq is true; want a whole number"),
        ({"model_version_policy": {"newest": 1}}, "models[1]: model_version_policy: "),
        ({"version_labels": {"stable": "1"}}, "models[1]: version_labels is "),
        ({"version_labels": {"stable": -1}}, "models[1]: the version of label stable is -1; want"),
        ({"stateful": True, "shape": "auto"}, "models[1]: Dynamic shape and dynamic batch size are not supported"),
        ({"custom_loader_options": {"loader_name": "l"}}, "models[1]: custom_loader_options is given, and there are"),
    ],
)
def test_of_a_model_what_cannot_be_is_named_with_its_place(changes: dict[str, Any], complaint: str) -> None:
    other = {"name": "other", "base_path": "s3://my-models/other", **changes}
    assert refusal(fields(DIGITS, other)).startswith(complaint)


@pytest.mark.parametrize(
    "base_path",
    [
        "s3://AKIAKEY:hunter2@my-models/digits",
        "s3://hunter2@my-models/digits",
        "gs://my-models/hunter2@:/x y",
        "az://models/digits?sig=hunter2",
        "https://mystorage.blob.core.windows.net/models?sig=hunter2",
        "s3://hun/ter2:hunter2@my-models/digits?",
    ],
)
def test_what_may_be_credentials_is_refused_and_not_shown(base_path: str) -> None:
    assert "hunter2" not in refusal(fields({"name": "m", "base_path": base_path}, azure_account="mystorage"))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (["log_level"], "settings is ['log_level']; want an object of Decant's settings"),
        ({"log_levl": "INFO"}, "settings.log_levl: 'log_levl' is unknown, log_level is meant perhaps; decant serve"),
        ({"log_level": "LOUD"}, "settings.log_level is 'LOUD'; want one of DEBUG, INFO, WARNING, ERROR"),
        ({"log_level": None}, "settings.log_level is null; want a value, or the setting left out"),
        ({"log_level": ""}, "settings.log_level is ''; want"),
        ({"load_timeout": "soon"}, "settings.load_timeout is 'soon'; want a number of seconds"),
        ({"max_in_flight": 0}, "settings.max_in_flight is '0'; want a whole number above 0"),
        ({"log-level": "INFO", "log_level": "INFO"}, "settings.log_level is given twice; want it once"),
        ({"model_path": "/m"}, "settings.model_path is of one model; want it in that one's entry of models"),
        ({"shape": "auto"}, "settings.shape is of one model; want"),
        ({"model_config": "{}"}, "settings.model_config is of one model; want"),
        ({"rest_port": 80}, "settings.rest_port is said by each platform's own files; want it left out"),
        ({"model_config_file_poll_wait_seconds": 1}, "settings.model_config_file_poll_wait_seconds is of a file of"),
        ({"aws_secret_access_key": "hunter2"}, "settings.aws_secret_access_key is a secret, and this is no place for"),
        ({"AZURE_STORAGE_SAS_TOKEN": "hunter2"}, "settings.AZURE_STORAGE_SAS_TOKEN is a secret"),
        ({"s3_endpoint": "https://me:hunter2@minio:9000"}, "settings.s3_endpoint has credentials in a URL; want none"),
        ({"s3_endpoint": "ftp://minio"}, "settings.s3_endpoint is 'ftp://minio'; want an http:// or https:// URL"),
        ({"max_batch_size": 8}, "settings: max_batch_size is given without enable_batching; want both"),
        ({"metrics_list": ["a"]}, "settings: metrics_enable setting is missing, required when metrics_list"),
        ({"memory_budget": "64G"}, "settings.memory_budget is '64G'; want memory, which is 2048Mi, at most"),
        ({"disk_budget": "10G"}, "settings.disk_budget is '10G'; want disk, which is 1024Mi, at most, or more disk"),
        ({"preload": ["other"]}, "settings.preload is 'other'; want names of models: digits"),
        ({"log_path": "/tmp/${x}"}, "settings.log_path has $, which platforms' files have for variables; want none"),
        ({"log_path": "/tmp/{{.Name}}"}, "settings.log_path has {{, which"),
        ({"log_path": "/tmp/%{x}"}, "settings.log_path has %{, which"),
        ({"log_path": "/tmp/\x1b[2J"}, "settings.log_path is '/tmp/\\x1b[2J'; want characters that can be printed"),
        ({"log_path": "/" + "x" * 5000}, "settings.log_path has 5001 characters; want 4096 at most"),
    ],
)
def test_a_setting_that_cannot_be_is_named(settings: object, complaint: str) -> None:
    said = refusal(fields(settings=settings))
    assert said.startswith(complaint)
    assert "hunter2" not in said


def test_what_holds_for_all_goes_with_what_a_model_is() -> None:
    said = refusal(fields({**DIGITS, "stateful": True}, settings={"workers": 2}))
    assert said.startswith("settings: stateful is given with workers 2; want workers 1")


def test_variables_of_templates_are_refused_wherever_they_are() -> None:
    assert refusal(fields({**DIGITS, "layout": {"${x}": "NHWC"}})).startswith("models[0].layout has $")
    assert refusal(fields({**DIGITS, "plugin_config": {"A": "$(x)"}})).startswith("models[0].plugin_config.A has $")


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ("", "this is no manifest; want an object with name, image and models"),
        ("- a", "this is no manifest; want"),
        ("name: [", "1:8: this is no YAML: "),
        ("a: 1\na: 2\n", "2:1: this is no YAML: found duplicate key"),
        ('{"name": "a", "name": "b"}', "this is no manifest: 'name' is given twice"),
        ("a: &x [1]\nb: *x\n", "2:4: *x is an alias; want the value itself"),
        ("a: !!python/object/apply:os.system [ls]", "1:4: this is no YAML: could not determine a constructor"),
        ("a: !x 1", "1:4: this is no YAML: could not determine a constructor for the tag '!x'"),
        ("a: 1\n---\nb: 1\n", "2:1: this is no YAML: but found another document"),
        ("\x00", "this is no YAML: "),
        ("1: 2", "the manifest has the key 1; want text: put it in quotes"),
        ("name: 2026-01-01", "name is a date; want text, a number, true or false: put it in quotes"),
        ("name: !!binary aGk=", "name is a bytes; want text"),
        ("name: !!set {a, b}", "name is a "),
        ("memory: .nan", "memory is nan; want a number that JSON has"),
        ("memory: " + "9" * 5000, "this is no manifest: "),
        ('{"memory": ' + "9" * 5000 + "}", "this is no manifest: "),
        ("name: " + "[" * 17, "1:22: lists and objects are nested more than 16 deep; want fewer"),
        ('{"name": ' + "[" * 17 + "]" * 17 + "}", "lists and objects are nested more than 16 deep"),
        ("name: " + "[" * 100_000, "1:22: lists and objects are nested more than 16 deep; want fewer"),
        ('{"name": ' + "[" * 100_000, "this is no manifest: "),
        ("#" * (MAX_TEXT + 1), f"it has {MAX_TEXT + 1} characters; want {MAX_TEXT} at most"),
    ],
)
def test_what_is_no_manifest_is_said_to_be_none(document: str, complaint: str) -> None:
    assert refusal(document).startswith(complaint)


def test_a_bomb_of_aliases_takes_no_time() -> None:
    levels = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    begun = time.monotonic()
    assert refusal(f"a0: &a0 [x]\n{levels}").startswith("2:10: *a0 is an alias")
    assert time.monotonic() - begun < 1


def test_the_models_are_bounded() -> None:
    models = [{"name": f"m{number}", "base_path": f"/m/{number}"} for number in range(MAX_MODELS + 1)]
    assert refusal(json.dumps(fields(*models))).startswith(f"models are {MAX_MODELS + 1}; want {MAX_MODELS} at most")
    assert len(parse(json.dumps(fields(*models[1:]))).models) == MAX_MODELS
