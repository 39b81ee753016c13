"""What settings make of a server: what is put around its models."""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.build import build_server, open_disk_cache
from handlers.configuration import MAX_FILE
from handlers.model_options import options_from
from handlers.settings import Settings, SettingsError
from model_cache.errors import LoadFailed
from model_cache.repository import ModelRepository
from runtime.engine import OpenVinoLoader
from tests.conftest import DIGITS
from tests.fakes import PATIENCE
from tests.runtime import models
from tests.servers.decant import decant_serve

SEVEN = json.loads((DIGITS / "seven.json").read_bytes())
TWO = {"instances": SEVEN["instances"][:1] * 2}


def build(directory: Path, **settings: Any) -> None:
    build_server(Settings(model_path=str(DIGITS), cache_dir=str(directory / "cache"), **settings)).close()


@pytest.mark.parametrize("place", ["flags", "file", "version"])
def test_requests_are_batched_as_flags_a_file_or_the_version_says(place: str, tmp_path: Path) -> None:
    model = tmp_path / "digits"
    (model / "1").mkdir(parents=True)
    for path in (DIGITS / "1").iterdir():
        (model / "1" / path.name).symlink_to(path)
    (tmp_path / "batching.config").write_text("max_batch_size { value: 1 }")
    flags = {
        "flags": ["--max_batch_size", "1"],
        "file": ["--batching_parameters_file", "batching.config"],
        "version": ["--enable_per_model_batching_parameters"],
    }[place]
    if place == "version":
        (tmp_path / "batching.config").rename(model / "1" / "batching_params.pbtxt")
    model_flags = ["--model_name", "digits", "--model_path", str(model), "--enable_batching"]
    with decant_serve(tmp_path, *model_flags, *flags, without_grpc=True) as server:
        assert server.post("/v1/models/digits:predict", SEVEN).body["predictions"][0]["digit"] == 7
        reply = server.post("/v1/models/digits:predict", TWO)
        assert (reply.status, "Task size 2 is larger than maximum input batch size 1" in str(reply.body)) == (400, True)


@pytest.mark.parametrize(("flags", "status"), [([], 200), (["--max_batch_size", "1"], 400)], ids=["none", "flags"])
def test_versions_without_parameters_of_their_own_have_those_that_are_given(
    flags: list[str], status: int, tmp_path: Path
) -> None:
    per_model = ["--enable_batching", "--enable_per_model_batching_parameters"]
    model = ["--model_name", "digits", "--model_path", str(DIGITS)]
    with decant_serve(tmp_path, *model, *per_model, *flags, without_grpc=True) as server:
        assert server.post("/v1/models/digits:predict", TWO).status == status


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ("max_batch_size 1", {}, "batching.config: "),
        ("max_batch_size { value: 0 }", {}, "max_batch_size is 0"),
        (None, {}, "cannot read batching.config: No such file or directory"),
        (None, {"batching_parameters_file": "", "max_batch_size": 8, "allowed_batch_sizes": (4,)}, "ends in 4"),
        ("", {"max_batch_size": 8}, "batching_parameters_file and max_batch_size are both given"),
        (" " * (MAX_FILE + 1), {}, "^batching_parameters_file: batching.config is larger than 1048576 bytes; want"),
        (None, {"batching_parameters_file": "ftp://x/y"}, "^batching_parameters_file: cannot read .* from 'ftp://x'"),
    ],
)
def test_batching_that_makes_no_sense_is_a_bad_setting(
    content: str | None, settings: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("batching.config").write_text(content)
    with pytest.raises(SettingsError, match=message):
        build(tmp_path, enable_batching=True, **{"batching_parameters_file": "batching.config", **settings})


def test_without_protobuf_the_batching_file_names_the_extra_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    path = tmp_path / "batching.config"
    path.touch()
    with pytest.raises(SettingsError, match=r"needs google.protobuf, which is not installed; try: pip install"):
        build(tmp_path, enable_batching=True, batching_parameters_file=str(path))
    # By flags it does not need it.
    build(tmp_path, enable_batching=True)


@pytest.mark.parametrize("is_on", [True, False])
def test_a_model_is_warmed_up_before_it_is_ready_unless_that_is_switched_off(is_on: bool, tmp_path: Path) -> None:
    flags = [] if is_on else ["--enable_signature_warmup", "false"]
    model = ["--model_name", "digits", "--model_path", str(DIGITS)]
    with decant_serve(tmp_path, *model, *flags, without_grpc=True) as server:
        assert ("warmed up serving_default of digits/1 with zeros" in server.log()) is is_on


@pytest.mark.parametrize(
    ("settings", "requests"),
    [
        ({}, 1),
        ({"nireq": 3}, 3),
        ({"plugin_config": {"NUM_STREAMS": "2"}}, min(2, len(os.sched_getaffinity(0)))),
        ({"plugin_config": {"NUM_STREAMS": "2"}, "nireq": 5}, 5),
    ],
    ids=["neither", "nireq", "plugin_config", "both"],
)
def test_models_are_compiled_and_run_as_flags_say(settings: dict[str, Any], requests: int, tmp_path: Path) -> None:
    """With as many streams as flags say, the engine wants as many infer requests."""
    server = build_server(Settings(model_path=str(DIGITS), cache_dir=str(tmp_path / "cache"), **settings))
    with closing(server), server.lease("default") as lease:
        assert lease.servable.concurrency == requests


@pytest.mark.parametrize("of", ["function", "worker"])
def test_models_run_on_the_share_of_the_cpus_that_this_process_has(
    of: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one thread the engine has one stream, however many it is asked for."""
    if of == "function":
        monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1769")
    processes = 1 if of == "function" else len(os.sched_getaffinity(0))
    settings = Settings(model_path=str(DIGITS), cache_dir=str(tmp_path / "cache"), plugin_config={"NUM_STREAMS": "2"})
    with closing(build_server(settings, processes=processes)) as server, server.lease("default") as lease:
        assert lease.servable.concurrency == 1


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"NO_SUCH": "1"}, "plugin_config: NotFound: Unsupported property NO_SUCH by CPU plugin."),
        ({"NUM_STREAMS": "many"}, "plugin_config: Could not read number of streams from str: many"),
        ({"INFERENCE_NUM_THREADS": "-1"}, "plugin_config: Wrong value for property key INFERENCE_NUM_THREADS"),
    ],
)
def test_properties_that_openvino_does_not_have_are_refused_with_its_reason(
    given: dict[str, str], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError) as caught:
        build(tmp_path, plugin_config=given)
    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize(
    ("device", "given"),
    [("MULTI:CPU", {"MULTI_DEVICE_PRIORITIES": "CPU"}), ("AUTO", {"ENABLE_STARTUP_FALLBACK": "NO"})],
)
def test_properties_are_those_of_the_device_that_is_wanted(device: str, given: dict[str, str], tmp_path: Path) -> None:
    of_model: dict[str, Any] = {"model_path": str(DIGITS), "cache_dir": str(tmp_path), "target_device": device}
    with closing(build_server(Settings(**of_model, plugin_config=given))) as server, server.lease("default") as lease:
        assert lease.servable.signatures
    with (
        closing(build_server(Settings(**of_model, plugin_config={"NO_SUCH": "1"}))) as server,
        pytest.raises(LoadFailed, match=f"unsupported keys: NO_SUCH; want {device}'s"),
        server.lease("default"),
    ):
        pass


@pytest.mark.parametrize(
    "fields",
    [{}, {"shape": "(3,64)"}, {"plugin_config": {"NUM_STREAMS": 1}}, {"shape": {"rows": "(3,64)"}, "nireq": 2}],
    ids=["none", "shape", "properties", "names"],
)
def test_what_is_published_of_a_model_with_options_is_fetched_along(fields: dict[str, Any], tmp_path: Path) -> None:
    version = models.save(models.weighty(), tmp_path / "model")
    if "rows" in str(fields):
        (version / "mapping_config.json").write_text('{"inputs": {"x": "rows"}}')
    storage = models.version_in_bucket(tmp_path / "model").storage

    def load(cache: str) -> tuple[bool, list[Path]]:
        files = open_disk_cache(Settings(cache_dir=str(tmp_path / cache)), models.F32)
        found = ModelRepository("model", storage, options=options_from(fields)).find(1)
        loader = OpenVinoLoader(files, models.F32, uses_compiled=True, keeps_compiled=True, quiet=0.0)
        with closing(models.load_by(loader, found)) as servable:
            (name,) = servable.signatures["serving_default"].inputs
            servable.predict("serving_default", {name: np.ones((3, 64), np.float32)})
            if servable.chore is not None:
                servable.chore.wait(PATIENCE)
            return servable.phases.is_imported, list((tmp_path / cache).rglob("*.blob"))

    is_imported, (kept,) = load("here")
    assert not is_imported
    storage.put(f"1/compiled/{kept.name}", kept.read_bytes())
    assert load("there") == (True, [*(tmp_path / "there").rglob(kept.name)])
