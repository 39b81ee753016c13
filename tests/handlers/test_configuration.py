"""Which models there are, from files in TensorFlow Serving's format, from flags and from messages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from handlers.configuration import MAX_FILE, Configuration, ModelConfig, from_message, models_of, parse, read
from handlers.settings import Settings, SettingsError
from model_cache.policy import MAX_VERSION, All, Latest, Specific
from model_cache.storage import StorageOptions
from runtime.codecs import schema
from runtime.options import ModelOptions, Stateful
from tests.servers.seaweedfs import SeaweedFS

M = ModelConfig("m", "/models/m")
JSON = b'{"model_config_list": [{"config": {"name": "m", "base_path": "/models/m"}}]}'


def text(fields: str) -> str:
    return f"model_config_list {{ config {{ name: 'm' base_path: '/models/m' {fields} }} }}"


GOOD = {
    # TensorFlow Serving, serving_config.md
    text(""): [M],
    text("model_platform: 'tensorflow'"): [M],
    text("model_platform: 'openvino' model_type: TENSORFLOW"): [M],
    text("model_version_policy { specific { versions: 42 versions: 43 } }"): [
        ModelConfig("m", "/models/m", Specific(frozenset({42, 43})))
    ],
    text("model_version_policy { specific { versions: [42, 43] } }"): [
        ModelConfig("m", "/models/m", Specific(frozenset({42, 43})))
    ],
    text("model_version_policy { latest { num_versions: 2 } }"): [ModelConfig("m", "/models/m", Latest(2))],
    text("model_version_policy { latest {} }"): [ModelConfig("m", "/models/m", Latest(1))],
    text("model_version_policy: { all: {} }"): [ModelConfig("m", "/models/m", All())],
    text("model_version_policy {}"): [M],
    text("version_labels { key: 'stable' value: 42 } version_labels { key: 'canary' value: 43 }"): [
        ModelConfig("m", "/models/m", labels={"stable": 42, "canary": 43})
    ],
    text(f"version_labels {{ key: 'v' value: {MAX_VERSION} }}"): [
        ModelConfig("m", "/models/m", labels={"v": MAX_VERSION})
    ],
    '# models\nmodel_config_list: {\n  config: {\n    name: "m",\n    base_path: "/models/m",\n  },\n}\n': [M],
    "\ufeff" + text(""): [M],
    "model_config_list { config { name: 'a' base_path: '/a' } config { name: 'b/c:d' base_path: 's3://b/c' } }": [
        ModelConfig("a", "/a"),
        ModelConfig("b/c:d", "s3://b/c"),
    ],
    "model_config_list { config { name: 'a' base_path: 'file:///a' } }": [ModelConfig("a", "file:///a")],
    "model_config_list {}": [],
}


@pytest.mark.parametrize("content", GOOD)
def test_a_file_describes_models(content: str) -> None:
    assert parse("models.config", content.encode()) == Configuration(GOOD[content])


UNPARSABLE = "models.config: Error parsing text-format tensorflow.serving.ModelServerConfig: "

BAD = {
    "": "models.config: is empty; want model_config_list { config {",
    " \n": "models.config: is empty; want",
    "# nothing": "models.config: nothing is given; want model_config_list",
    "custom_model_config {}": "custom_model_config is given; want model_config_list",
    text("nme: 'm'"): f'{UNPARSABLE}1:63 : Message type "tensorflow.serving.ModelConfig" has no field named "nme"',
    "model_config_list {\n  config {\n    name 'm'": f"{UNPARSABLE}3:",
    "model_config_list { config { name: 'm'": UNPARSABLE,
    "models: " + "x" * 10_000: UNPARSABLE,
    text("version_labels { key: 'v' value: 9223372036854775808 }"): UNPARSABLE,
    text(
        "version_labels { key: 'v' value: -1 }"
    ): "model 'm': the version of label v is -1; want 0 to 9223372036854775807",
    text("version_labels { key: '' value: 1 }"): "model 'm': version_labels is ''; want a name for a version",
    text("model_platform: 'onnx'"): "model 'm': model_platform is 'onnx'; want tensorflow, openvino or nothing",
    text("model_type: OTHER"): "model 'm': model_type is 2; want model_platform instead",
    text("logging_config {}"): "model 'm': logging_config is given, and requests cannot be logged",
    text(
        "model_version_policy { specific {} }"
    ): "model 'm': model_version_policy: versions is empty; want one or more",
    text(
        "model_version_policy { specific { versions: 0 } }"
    ): "model 'm': model_version_policy: 0 is no version; want 1",
    text("model_version_policy { latest {} all {} }"): UNPARSABLE,
    "model_config_list { config { base_path: '/m' } }": "model 1 of the list: name is ''; want what clients",
    "model_config_list { config { name: 'a' base_path: '/a' } config { name: 'a\\nb' base_path: '/b' } }": (
        "model 'a\\nb': name is 'a\\nb'; want what clients call the model"
    ),
    "model_config_list { config { name: 'm' } }": "model 'm': base_path is ''; want an absolute path, or a URL of file",
    "model_config_list { config { name: 'm' base_path: 'models/m' } }": (
        "model 'm': base_path is 'models/m'; want an absolute path, or a URL of file, s3"
    ),
    "model_config_list { config { name: 'm' base_path: 'ftp://m' } }": "base_path is 'ftp://m'; want an absolute path",
    "model_config_list { config { name: 'm' base_path: '/m\\000' } }": "base_path is '/m\\x00'; want an absolute path",
    "model_config_list { config { name: 'm' base_path: 's3://[' } }": "base_path is 's3://['; want an absolute path",
    "model_config_list { config { name: 'm' base_path: '/a' } config { name: 'm' base_path: '/b' } }": (
        "model 'm' is listed more than once; want each name once"
    ),
}


@pytest.mark.parametrize("content", BAD, ids=lambda content: content[:80])
def test_a_bad_file_is_named_with_the_model_the_field_and_what_is_wanted(content: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse("models.config", content.encode())
    message = str(caught.value)
    assert BAD[content] in message
    assert message.startswith("models.config: ")
    assert "\n" not in message
    assert len(message) < 800


def test_bytes_that_are_no_text_are_no_configuration() -> None:
    with pytest.raises(SettingsError, match=r"^models.config has bytes that are no UTF-8 at 2; want text$"):
        parse("models.config", b"a \xff")


def test_a_message_describes_models_as_the_file_does() -> None:
    message = schema.ModelServerConfig()
    message.model_config_list.config.add(name="m", base_path="/models/m").version_labels["stable"] = 1
    assert from_message(message) == [ModelConfig("m", "/models/m", labels={"stable": 1})]
    with pytest.raises(SettingsError, match="nothing is given; want model_config_list"):
        from_message(schema.ModelServerConfig())


def test_without_protobuf_the_text_names_the_extra_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    with pytest.raises(SettingsError, match=r"this needs google.protobuf, which is not installed; try: pip install"):
        parse("models.config", text("").encode())
    # The other format does not need it.
    assert parse("config.json", JSON).models == [M]


def test_flags_describe_one_model() -> None:
    settings = Settings(
        model_name="m", model_path="models/m", model_version_policy=Latest(2), version_labels={"stable": 1}
    )
    # A path on a command line may be relative.
    assert models_of(settings) == Configuration([ModelConfig("m", "models/m", Latest(2), {"stable": 1})])


def test_flags_describe_how_the_one_model_is_made_ready() -> None:
    settings = Settings(model_path="/m", shape="(1,-1)", nireq=2, stateful=True, plugin_config={"NUM_STREAMS": "2"})
    [model] = models_of(settings).models
    shape = (("", ((1, 1), (0, -1))),)
    assert model.options == ModelOptions(
        shape=shape, requests=2, properties=(("NUM_STREAMS", "2"),), stateful=Stateful()
    )
    with pytest.raises(SettingsError, match=r"^shape is '1,2'; want \(1,3,224,224\), "):
        models_of(Settings(model_path="/m", shape="1,2"))


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_local_file_is_read(scheme: str, tmp_path: Path) -> None:
    path = tmp_path / "my models.config"
    path.write_text(text(""))
    assert models_of(Settings(model_config_file=f"{scheme}{path}")).models == [M]
    url = f"{scheme}{str(path).replace(' ', '%20')}"
    if scheme:
        assert models_of(Settings(model_config_file=url)).models == [M]


def test_a_local_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "models.config"
    with pytest.raises(SettingsError, match=f"^cannot read {path}: No such file or directory$"):
        read(str(path), StorageOptions())
    with pytest.raises(SettingsError, match=f"^cannot read {tmp_path}: Is a directory$"):
        read(str(tmp_path), StorageOptions())
    path.write_bytes(b" " * MAX_FILE)
    assert len(read(str(path), StorageOptions())) == MAX_FILE
    path.write_bytes(b" " * (MAX_FILE + 1))
    with pytest.raises(SettingsError, match=f"^model_config_file: {path} is larger than 1048576 bytes; want a file of"):
        read(str(path), StorageOptions())


def test_a_file_in_a_bucket_is_read(s3: SeaweedFS) -> None:
    client = s3.client()
    for name, content in {"a": text("").encode(), "empty": b"", "large": b" " * (MAX_FILE + 1)}.items():
        client.put_object(Bucket="models", Key=f"config/{name}", Body=content)
    environ = {"AWS_ACCESS_KEY_ID": s3.reader.access_key, "AWS_SECRET_ACCESS_KEY": s3.reader.secret_key}
    options = StorageOptions(s3_endpoint=s3.endpoint, environ=environ, client="obstore")
    assert parse("a", read("s3://models/config/a", options)).models == [M]
    assert read("s3://models/config/empty", options) == b""
    with pytest.raises(SettingsError, match="cannot read s3://models/config/b: there is no such file"):
        read("s3://models/config/b", options)
    with pytest.raises(SettingsError, match="is larger than 1048576 bytes"):
        read("s3://models/config/large", options)
    with pytest.raises(SettingsError, match="model_config_file: cannot read models from 'ftp://x'; want"):
        read("ftp://x/models.config", options)
    with pytest.raises(SettingsError, match=r"^batching_parameters_file: cannot read models from 'ftp://x'; want"):
        read("ftp://x/batching.config", options, "batching_parameters_file")
