"""All platforms alike: each renders a manifest or says why it cannot, and what it renders means what the manifest says.

What is a platform's own is tested beside that platform.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from handlers import ovms
from handlers.configuration import ModelConfig, models_of
from handlers.deploy.environment import environment
from handlers.deploy.manifest import Manifest
from handlers.deploy.render import check_name, render
from handlers.deploy.targets import NEXT, TARGETS
from handlers.settings import PREFIX, Settings, kinds, read_flags, read_settings
from model_cache.repository import LISTING_TTL
from tests.handlers.deploy.manifests import IMAGE, manifest
from tests.handlers.deploy.reading import GRANTS, READERS, Files, Said
from tests.handlers.deploy.reading import helm as helm_says
from tests.servers import ROOT
from tests.servers.helm import IS_INSTALLED, NEEDS_HELM, helm
from tests.servers.processes import clean_environment

AT = {"s3": "s3://my-models", "gs": "gs://my-models", "az": "az://models", "": "/models"}
ANY = ("s3", "gs", "az", "")
READS = {
    **dict.fromkeys(("lambda", "serverless", "terraform"), ("s3", "")),
    "cloud-run": ("gs", ""),
    "container-apps": ("az", ""),
    **dict.fromkeys(("knative", "helm", "kserve", "compose"), ANY),
}
"""Where models can be: a serverless platform's identity is one cloud's."""

MANIFESTS: Mapping[str, Mapping[str, Any]] = {
    "one model": {},
    "several": {"names": ("digits", "resnet-50")},
    "everything": {
        "options": {"model_version_policy": {"latest": {"num_versions": 2}}, "shape": {"x": "(1,784)"}},
        "memory": "4Gi",
        "cpu": 2,
        "concurrency": 16,
        "timeout": 120,
        "disk": "2Gi",
        "warm": 2,
        "max_instances": 5,
        "public": True,
        "settings": {"log_level": "DEBUG", "metrics_enable": True, "plugin_config": {"NUM_STREAMS": 2}},
    },
    "grpc": {"grpc": True},
    "arm64": {"architecture": "arm64"},
    "names": {"names": ("ResNet-50_v1.5", "größe")},
    "deadlines": {"settings": {"load_timeout": 20, "rest_api_timeout_in_ms": 15000, "shutdown_timeout": 6}},
}
IMAGES = {"cloud-run": f"europe-docker.pkg.dev/acme/ml/decant@sha256:{'ab' * 32}"}
"""Where a platform does not take those of the registry that the others' are in."""
REFUSED = {
    **{(target, "grpc"): "grpc is true; want false" for target in ("lambda", "serverless", "terraform")},
    ("kserve", "names"): "models: the name 'ResNet-50_v1.5' is no service's; want at most 53 lower-case letters",
    ("cloud-run", "arm64"): "architecture is arm64; want amd64",
    ("container-apps", "arm64"): "architecture is arm64; want amd64",
}
"""By what is said; all else is rendered."""


def of(
    target: str,
    scheme: str | None = None,
    *,
    names: tuple[str, ...] = ("digits",),
    options: Mapping[str, Any] | None = None,
    **others: Any,
) -> Manifest:
    """A manifest that a platform can have, with its models where it reads them first of all."""
    scheme = READS[target][0] if scheme is None else scheme
    models = [{"name": name, "base_path": f"{AT[scheme]}/vision/{name.lower()}", **(options or {})} for name in names]
    # A prefix has fewer characters than a name.
    for model in models:
        model["base_path"] = model["base_path"].encode("ascii", "ignore").decode()
    return manifest(*models, azure_account="mystorage", image=IMAGES.get(target, IMAGE), **others)


def cases() -> Iterator[Any]:
    for target in TARGETS:
        for case in MANIFESTS:
            schemes = READS[target] if case == "several" else READS[target][:1]
            for scheme in schemes:
                if (target, case) not in REFUSED:
                    yield pytest.param(target, scheme, case, id=f"{target}-{scheme or 'path'}-{case}")


def rendered(target: str, given: Manifest) -> Files:
    (one,), refused = render(given, [target])
    assert not refused
    return one.files


def settings_of(variables: Mapping[str, str], arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What Decant reads from its variables and its command line."""
    for name in os.environ:
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    command, *flags = arguments or ["serve"]
    assert command in ("serve", "ovms")
    given = read_flags(flags)
    assert given is not None, arguments
    return read_settings(given, ovms.DEFAULTS if command == "ovms" else None)


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Any], Mapping[str, str]]]:
    with helm(tmp_path_factory.mktemp("helm") / "helm.log") as library:
        yield library.render


@pytest.mark.parametrize(("target", "scheme", "case"), [case for case in cases() if case.values[0] != "helm"])
def test_what_is_rendered_is_the_manifest(target: str, scheme: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = of(target, scheme, **MANIFESTS[case])
    require_same(target, given, READERS[target](rendered(target, given)), monkeypatch)


@pytest.mark.skipif(not IS_INSTALLED, reason=NEEDS_HELM)
@pytest.mark.parametrize(("target", "scheme", "case"), [case for case in cases() if case.values[0] == "helm"])
def test_what_the_chart_makes_of_its_values_is_the_manifest(
    target: str, scheme: str, case: str, chart: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = of(target, scheme, **MANIFESTS[case])
    require_same(target, given, helm_says(rendered(target, given), chart, tmp_path), monkeypatch)


def require_same(target: str, given: Manifest, processes: Sequence[Said], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as directly:
        wanted = list(models_of(settings_of(environment(given), [], directly)).models)
    served: list[ModelConfig] = []
    for said in processes:
        with monkeypatch.context() as there:
            settings = settings_of(said.variables, said.arguments, there)
            configuration = models_of(settings)
        assert configuration.rejected == {}
        served += configuration.models
        require_same_settings(target, given, settings)
        assert said.image == given.image
        assert said.memory >= given.memory if target in SOLD_IN_STEPS else said.memory == given.memory
        assert said.concurrency in (None, given.concurrency)
        least = max(1, given.min_instances) if target in NEVER_WITHOUT else given.min_instances
        most = None if target in RESERVES and not given.is_limited else given.max_instances
        assert said.instances in (None, (least, most))
        assert said.timeout in (None, given.timeout)
        if any(model.base_path.startswith("az://") for model in given.models):
            assert said.variables["AZURE_STORAGE_ACCOUNT"] == "mystorage"
    assert served == wanted


def require_same_settings(target: str, given: Manifest, settings: Settings) -> None:
    for name, value in given.settings.items():
        assert getattr(settings, name) == kinds()[name].parse(value)
    settings.require_models()
    settings.require_ports()
    assert bool(settings.port) is given.grpc or target in ONE_PORT
    # Each look costs money, for each model and instance.
    assert settings.listing_ttl == 0 or settings.listing_ttl >= LISTING_TTL
    # So that Decant's own answer comes before the platform ends the request.
    assert settings.load_timeout <= given.timeout


ONE_PORT = ("lambda", "serverless", "terraform", "cloud-run", "knative", "kserve")
"""Where there is gRPC instead of REST, or none, and a port is the platform's to say."""
RESERVES = ("lambda", "serverless", "terraform")
"""Where the most are taken from what all others have."""
NEVER_WITHOUT = ("helm",)
"""Where no request starts the first instance."""
SOLD_IN_STEPS = ("container-apps",)
SENDS_AT_A_TIME = ("cloud-run", "container-apps", "knative", "kserve")
"""Where the platform counts the requests that an instance has."""


@pytest.mark.parametrize(("target", "case"), REFUSED)
def test_what_a_platform_cannot_is_refused_with_what_it_can(target: str, case: str) -> None:
    rendered, refused = render(of(target, **MANIFESTS[case]), [target])
    assert rendered == []
    assert re.search(REFUSED[target, case], refused[target])


@pytest.mark.parametrize(
    ("target", "scheme"), [(target, scheme) for target in TARGETS for scheme in ANY if scheme not in READS[target]]
)
def test_models_in_another_cloud_are_refused_where_the_platform_is_nobody_there(target: str, scheme: str) -> None:
    _, refused = render(of(target, scheme), [target])
    assert re.search(rf"\bdigits\b.*{AT[scheme]}/vision/digits.*; want {READS[target][0]}://", refused[target])


NO_YAML = "chart/templates/"
"""Where Helm makes YAML of what is there."""


@pytest.mark.parametrize("target", TARGETS)
def test_files_have_names_and_are_what_these_say(target: str) -> None:
    for name, content in rendered(target, of(target, region="eu-west-1")).items():
        check_name(name)
        assert content.endswith("\n")
        if name.endswith((".yaml", ".yml")) and not name.startswith(NO_YAML):
            assert list(YAML().load_all(content))
        if name.endswith(".json"):
            assert json.loads(content)


@pytest.mark.parametrize("is_one", [True, False])
@pytest.mark.parametrize("target", TARGETS)
def test_readers_of_yaml_1_1_read_the_same(target: str, is_one: bool) -> None:
    names = ("no",) if is_one else ("on", "y")
    given = of(target, names=names, options={"batch_size": "1:8"}, name="off")
    for name, content in rendered(target, given).items():
        if name.endswith((".yaml", ".yml")) and not name.startswith(NO_YAML):
            assert scalars(content, (1, 1)) == scalars(content, (1, 2))


def scalars(text: str, version: tuple[int, int]) -> list[tuple[str, str]]:
    """What is in a YAML file, each with the type that it has in this version of YAML."""
    yaml = YAML(pure=True)
    yaml.version = version

    def within(node: Any) -> Iterator[tuple[str, str]]:
        if node.id == "scalar":
            yield node.tag, node.value
            return
        for member in node.value:
            for part in member if isinstance(member, tuple) else (member,):
                yield from within(part)

    return [scalar for document in yaml.compose_all(io.StringIO(text)) for scalar in within(document)]


@pytest.mark.parametrize("target", TARGETS)
def test_the_next_command_names_files_that_are_there(target: str) -> None:
    files = rendered(target, of(target))
    named = re.findall(r"\{directory\}/([\w./-]+)", NEXT[target])
    assert set(named) <= files.keys() | {name.partition("/")[0] for name in files if "/" in name}
    for name in named:
        # What is typed alone is a program.
        if NEXT[target] == f"{{directory}}/{name}":
            assert files[name].startswith("#!")


REQUESTS = [
    ("read", "vision/digits/1/model.bin", True),
    ("read", "vision/resnet-50/3/model.bin", True),
    ("read", "vision/digits-of-others/1/model.bin", False),
    ("read", "vision/other/1/model.bin", False),
    ("read", "secret", False),
    ("write", "vision/digits/1/model.bin", False),
    ("delete", "vision/digits/1/model.bin", False),
    ("list", "vision/digits/", True),
    ("list", "vision/digits/3/", True),
]
LISTS_OF_OTHERS = ["", "vision/", "vision/digits-of-others/", "vision/other/"]


@pytest.mark.parametrize("target", GRANTS)
def test_its_rights_are_to_read_the_models_and_nothing_beside_them(target: str) -> None:
    scheme = READS[target][0]
    bucket = AT[scheme].partition("://")[2]
    may = GRANTS[target](rendered(target, of(target, scheme, names=("digits", "resnet-50"))))
    for verb, key, is_allowed in REQUESTS:
        assert may(verb, bucket, key) is is_allowed, (verb, key)
        assert may(verb, f"{bucket}-of-others", key) is False
    if target != "cloud-run":
        # A right on the bucket on Google Cloud, where nobody asks for which prefix.
        assert [key for key in LISTS_OF_OTHERS if may("list", bucket, key)] == []


@pytest.mark.parametrize("target", GRANTS)
def test_models_in_the_container_need_no_rights(target: str) -> None:
    may = GRANTS[target](rendered(target, of(target, "")))
    assert not any(may(verb, bucket, key) for verb, key, _ in REQUESTS for bucket in ("my-models", "models", ""))


def test_a_rendering_is_the_same_in_every_process() -> None:
    program = (
        "import sys; from handlers.deploy.render import render, to_stdout\n"
        "from handlers.deploy.targets import TARGETS\n"
        "from tests.handlers.deploy.test_targets import of\n"
        "names = ('digits', 'resnet-50')\n"
        "files = [render(of(target, names=names), [target])[0][0] for target in TARGETS]\n"
        "sys.stdout.buffer.write(to_stdout(files))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=clean_environment({"PYTHONHASHSEED": seed}),
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert len(outputs.pop()) > 10_000


@pytest.mark.parametrize(
    ("target", "concurrency"), [(target, number) for target in SENDS_AT_A_TIME for number in (256, 1000)]
)
def test_decant_takes_as_many_requests_as_it_is_sent(
    target: str, concurrency: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = of(target, concurrency=concurrency)
    for said in READERS[target](rendered(target, given)):
        # And some of whoever else asks it.
        assert settings_of(said.variables, said.arguments, monkeypatch).max_in_flight > concurrency
