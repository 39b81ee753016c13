"""The chart, rendered by Helm's own library: what its objects mean, and that Kubernetes' versions take them."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from handlers.settings import kinds, read_flags, read_settings
from model_cache.repository import LISTING_TTL
from runtime.servicers import OPEN_INFERENCE_METHODS
from tests.infra.helm_values import NOT_IN, ONE_MODEL, OTHERS, OVMS, PRODUCTION, SETS, Values, with_values
from tests.infra.kubernetes_objects import (
    Object,
    admits,
    amount,
    containers,
    flags,
    objects_in,
    of_kind,
    pod_specs,
    server,
)
from tests.servers import ROOT
from tests.servers.helm import CHART, IS_INSTALLED, NEEDS_HELM, Helm, HelmRefusedError, helm

pytestmark = pytest.mark.skipif(not IS_INSTALLED, reason=NEEDS_HELM)

CHECKOV = ROOT / ".tools" / "checkov"
VERSIONS = ["1.25", "1.31", "1.37"]
OTHER_VERSIONS = [f"1.{minor}" for minor in range(25, 38) if f"1.{minor}" not in VERSIONS]
VALUES = YAML(typ="safe").load(CHART / "values.yaml")
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Helm]:
    with helm(tmp_path_factory.mktemp("helm") / "helm.log") as process:
        yield process


_RENDERED: dict[str, list[Object]] = {}


def rendered(chart: Helm, values: Values, **more: Any) -> list[Object]:
    given = with_values(values, **more)
    key = json.dumps(given)
    if key not in _RENDERED:
        texts = chart.render(given)
        _RENDERED[key] = [one for name, text in texts.items() if name != "NOTES.txt" for one in objects_in(text)]
    return copy.deepcopy(_RENDERED[key])


def test_helm_has_nothing_to_say(chart: Helm) -> None:
    for values in SETS.values():
        report = chart.call("lint", str(CHART), values, strict=True)
        assert report["errors"] == []
        assert [one["error"] for one in report["messages"] if one["severity"] > 1] == []


def test_its_versions_are_the_products() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    about = YAML(typ="safe").load(CHART / "Chart.yaml")
    assert about["appVersion"] == project["version"]


def test_every_value_is_in_the_schema_and_the_other_way_round() -> None:
    assert set(VALUES) == set(SCHEMA["properties"]) - {"global"}
    for name, schema in SCHEMA["properties"].items():
        if schema.get("additionalProperties") is False and name in VALUES and VALUES[name]:
            assert set(VALUES[name]) <= set(schema["properties"]), name


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_everything(chart: Helm, version: str) -> None:
    newer = {name for name, since in NOT_IN.items() if since > tuple(map(int, version.split(".")))}
    for name, values in SETS.items():
        if values is not OTHERS and name not in newer:
            assert chart.wrong_with(rendered(chart, values), version) == [], name


@pytest.mark.parametrize("version", OTHER_VERSIONS)
def test_every_version_takes_what_production_needs(chart: Helm, version: str) -> None:
    assert chart.wrong_with(rendered(chart, PRODUCTION), version) == []


def test_a_field_that_is_none_would_be_found(chart: Helm) -> None:
    objects = rendered(chart, ONE_MODEL)
    server(objects)["livenesProbe"] = {}
    (wrong,) = chart.wrong_with(objects, "1.37")
    assert "livenesProbe" in wrong


def test_others_kinds_are_the_only_ones_that_kubernetes_does_not_know(chart: Helm) -> None:
    assert sorted(chart.wrong_with(rendered(chart, OTHERS), "1.37")) == [
        "gateway.networking.k8s.io/v1 GRPCRoute",
        "gateway.networking.k8s.io/v1 HTTPRoute",
        "keda.sh/v1alpha1 ScaledObject",
        "monitoring.coreos.com/v1 ServiceMonitor",
    ]


@pytest.mark.parametrize("name", list(SETS))
def test_no_pod_may_more_than_it_must(chart: Helm, name: str) -> None:
    user = (SETS[name].get("security_context") or {}).get("runAsUser", 10001)
    for _, spec in pod_specs(rendered(chart, SETS[name])):
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        pod = spec["securityContext"]
        assert (pod["runAsNonRoot"], pod["runAsUser"]) == (True, user)
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        for one in containers(spec):
            if one["name"] in ("decant", "pull", "ask"):
                own = one["securityContext"]
                assert own["readOnlyRootFilesystem"] is True
                assert own["allowPrivilegeEscalation"] is False
                assert own["privileged"] is False
                assert own["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("name", list(SETS))
def test_what_must_be_written_can_be_and_nothing_else(chart: Helm, name: str) -> None:
    objects = rendered(chart, SETS[name])
    mounts = {one["mountPath"]: one.get("readOnly", False) for one in server(objects)["volumeMounts"]}
    cache = flags(server(objects)["args"])["cache_dir"]
    assert [path for path, read_only in mounts.items() if not read_only] == ["/tmp", cache]
    volumes = [one["name"] for one in of_kind(objects, "Deployment")["spec"]["template"]["spec"]["volumes"]]
    assert {one["name"] for one in server(objects)["volumeMounts"]} == set(volumes)


@pytest.mark.parametrize("name", list(SETS))
def test_the_service_leads_to_the_pods_and_their_ports(chart: Helm, name: str) -> None:
    objects = rendered(chart, SETS[name])
    service, deployment = of_kind(objects, "Service"), of_kind(objects, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert admits(service["spec"]["selector"], labels)
    assert admits(deployment["spec"]["selector"]["matchLabels"], labels)
    ports = {one["name"]: one["containerPort"] for one in server(objects)["ports"]}
    assert {one["targetPort"]: one["port"] for one in service["spec"]["ports"]} == ports
    said = flags(server(objects)["args"])
    assert (int(said["port"]), int(said["rest_port"])) == (ports.get("grpc", 0), ports["rest"])


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ({"all": {}}, {"all": {}}),
        ({"specific": {"versions": [1, 3]}}, {"specific": {"versions": [1, 3]}}),
        ('{\\"all\\": {}}', {"all": {}}),
        ({}, None),
        ("", None),
        (None, None),
    ],
)
@pytest.mark.parametrize("name", ["model_version_policy", "plugin_config"])
def test_an_object_is_what_its_text_is_and_nothing_of_the_default(
    chart: Helm, name: str, given: object, want: object
) -> None:
    said = flags(server(rendered(chart, {**ONE_MODEL, name: given}))["args"]).get(name)
    assert (said and json.loads(said)) == want


def test_settings_are_the_servers_and_none_that_the_chart_says_itself(chart: Helm) -> None:
    names = SCHEMA["properties"]["settings"]["propertyNames"]["enum"]
    # A flag that there is; its value is another matter.
    assert read_flags([f"--{name}=1" for name in names]) is not None
    own = {"port", "grpc_bind_address", "rest_bind_address", "cache_dir", "model_config", "model_config_file"}
    assert own | set(names) >= set(kinds()) - SCHEMA["properties"].keys()
    assert not (own | SCHEMA["properties"].keys() | {"config_path", "rest_api_port", "model_base_path"}) & set(names)
    said = flags(server(rendered(chart, ONE_MODEL, settings={"allowed_batch_sizes": [8, 32]}))["args"])
    assert said["allowed_batch_sizes"] == "8,32"


def test_labels_are_added_and_take_none_away(chart: Helm) -> None:
    taken = {"app.kubernetes.io/name": "x", "app.kubernetes.io/component": "x", "app.kubernetes.io/version": "9"}
    use = {"azure.workload.identity/use": "true"}
    given = {"labels": {**taken, "team": "a"}, "pod_labels": {**taken, **use}}
    objects = rendered(chart, with_values(PRODUCTION, **given))
    spec = of_kind(objects, "Deployment")["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert admits(spec["selector"]["matchLabels"], labels)
    assert admits(use | {"team": "a"}, labels)
    for one in objects:
        assert admits({"team": "a", "app.kubernetes.io/name": "decant"}, one["metadata"]["labels"])


def test_it_answers_as_ovms_does_and_looks_as_often_as_is_said(chart: Helm) -> None:
    for given, seconds in ((None, LISTING_TTL), (1, 1), (0, 0)):
        command, *arguments = server(rendered(chart, ONE_MODEL, file_system_poll_wait_seconds=given))["args"]
        found = read_flags(arguments)
        assert found is not None
        settings = read_settings(found)
        assert (command, settings.listing_ttl) == ("serve", seconds)
        assert settings.enable_serialization_as_tensor_content
    said = rendered(chart, ONE_MODEL, settings={"enable_serialization_as_tensor_content": False})
    assert flags(server(said)["args"])["enable_serialization_as_tensor_content"] == "false"


def test_what_is_of_sequences_is_left_out_unless_the_model_is_stateful(chart: Helm) -> None:
    values = {**ONE_MODEL, "idle_sequence_cleanup": False, "max_sequence_number": "100"}
    assert not {"idle_sequence_cleanup", "max_sequence_number"} & flags(server(rendered(chart, values))["args"]).keys()
    said = flags(server(rendered(chart, values, stateful="true"))["args"])
    assert (said["stateful"], said["idle_sequence_cleanup"], said["max_sequence_number"]) == ("true", "false", "100")


def test_of_what_ovms_has_the_first_that_is_set_is_served(chart: Helm) -> None:
    for values, path in (
        ({"config_configmap_name": "mine"}, "/config/config.json"),
        ({"config_configmap_name": "mine", "config_path": "/config/other.json"}, "/config/other.json"),
    ):
        objects = rendered(chart, with_values(OVMS, **values))
        said = flags(server(objects)["args"])
        assert said["config_path"] == path
        # What is left over is not asked for either.
        assert "MODEL" not in {one["name"] for one in of_kind(objects, "Pod")["spec"]["containers"][0]["env"]}
        assert not {"model_name", "model_path", "nireq", "model_version_policy"} & said.keys()


def test_what_is_commented_out_is_as_if_it_were_not_there(chart: Helm) -> None:
    assert chart.render(SETS["all commented out"]) == chart.render(ONE_MODEL)


def test_nothing_is_read_as_a_number_or_a_boolean_that_is_a_name(chart: Helm) -> None:
    names = {"name_override": "12", "fullname_override": "on", "models_host_path": "/a: x #", "existing_secret": "1e5"}
    ingress = {"enabled": True, "hosts": ["a"], "paths": ["/v1: #"]}
    values = {**OTHERS, **names, "ingress": ingress, "cache": {"kind": "claim", "existing_claim": "2024"}}
    texts = chart.render({**values, "keda": {}}, name="no", namespace="2024")
    # As Helm reads it, which is in part YAML 1.1.
    old = YAML(typ="safe", pure=True)
    old.version = (1, 1)
    objects = [one for name, text in texts.items() if name != "NOTES.txt" for one in old.load_all(text) if one]
    for one in objects:
        assert (one["metadata"]["namespace"], one["metadata"]["labels"]["app.kubernetes.io/instance"]) == ("2024", "no")
        assert all(isinstance(text, str) for text in one["metadata"]["labels"].values())
    assert of_kind(objects, "Service")["metadata"]["name"] == "on"
    assert of_kind(objects, "Service")["spec"]["selector"]["app.kubernetes.io/name"] == "12"
    spec = of_kind(objects, "Deployment")["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == "on"
    volumes = {one["name"]: one for one in spec["volumes"]}
    assert volumes["models"]["hostPath"]["path"] == "/a: x #"
    assert volumes["cache"]["persistentVolumeClaim"]["claimName"] == "2024"
    assert server(objects)["envFrom"][0]["secretRef"]["name"] == "1e5"
    (path,) = of_kind(objects, "Ingress")["spec"]["rules"][0]["http"]["paths"]
    assert (path["path"], path["backend"]["service"]["name"]) == ("/v1: #", "on")


def test_the_pod_of_helm_test_is_no_server(chart: Helm) -> None:
    objects = rendered(chart, PRODUCTION)
    selector = of_kind(objects, "Service")["spec"]["selector"]
    pod = of_kind(objects, "Pod")
    assert not admits(selector, pod["metadata"]["labels"])
    (policy,) = [one for one in objects if one["kind"] == "NetworkPolicy"]
    allowed = policy["spec"]["ingress"][0]["from"]
    assert any(admits(one["podSelector"]["matchLabels"], pod["metadata"]["labels"]) for one in allowed[1:])


def test_probes_ask_what_they_are_for(chart: Helm) -> None:
    one = server(rendered(chart, ONE_MODEL))
    paths = {kind: one[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    # A pod that loads is alive; one is sent requests when it has loaded.
    assert paths["readiness"] == {"path": "/v2/health/ready", "port": "rest"}
    assert paths["startup"] == paths["liveness"] == {"path": "/v2/health/live", "port": "rest"}


@pytest.mark.parametrize(("pre_stop", "shutdown"), [(5, 20), (0, 8), (2.5, 100.2)])
def test_requests_in_flight_finish_before_the_pod_is_killed(chart: Helm, pre_stop: float, shutdown: float) -> None:
    objects = rendered(chart, ONE_MODEL, pre_stop_seconds=pre_stop, shutdown_timeout=shutdown)
    grace = of_kind(objects, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    said = float(flags(server(objects)["args"])["shutdown_timeout"])
    assert said == shutdown
    assert isinstance(grace, int)
    assert pre_stop + said + 1 < grace
    assert ("lifecycle" in server(objects)) is bool(pre_stop)


@pytest.mark.parametrize(
    ("size", "storage"),
    [("8Gi", None), ("500Mi", "1Gi"), ("1.5Gi", 1073741824), ("20G", "1Gi"), ("8Gi", "1e9"), ("8Gi", "9Gi")],
)
def test_the_cache_stays_below_what_a_pod_is_evicted_for(chart: Helm, size: str, storage: object) -> None:
    limits = {"limits": {"ephemeral-storage": storage}}
    objects = rendered(chart, ONE_MODEL, cache={"size": size}, resources=limits, pull={"enabled": True})
    spec = of_kind(objects, "Deployment")["spec"]["template"]["spec"]
    (limit,) = [amount(one["emptyDir"]["sizeLimit"]) for one in spec["volumes"] if one["name"] == "cache"]
    if storage:
        limit = min(limit, float(storage) if storage == "1e9" else amount(storage))
    for one in containers(spec):
        assert 0.85 * limit < int(flags(one["args"])["disk_budget"]) <= 0.9 * limit


def test_a_disk_of_its_own_is_measured_where_it_is(chart: Helm) -> None:
    for values in ({"kind": "claim"}, {"kind": "ephemeral"}, {"medium": "Memory"}):
        assert "disk_budget" not in flags(server(rendered(chart, ONE_MODEL, cache=values))["args"])
    said = flags(server(rendered(chart, ONE_MODEL, settings={"disk_budget": 1_000_000}))["args"])
    assert said["disk_budget"] == "1000000"


def test_what_is_fetched_ahead_is_what_is_served(chart: Helm) -> None:
    for values in (ONE_MODEL, {"config": PRODUCTION["config"]}):
        objects = rendered(chart, values, pull={"enabled": True}, settings={"s3_endpoint": "http://s3:9000"})
        pull, serve = containers(of_kind(objects, "Deployment")["spec"]["template"]["spec"])
        one, other = flags(pull["args"]), flags(serve["args"])
        assert one.items() <= other.items()
        assert one["s3_endpoint"] == "http://s3:9000"
        assert one.get("model_version_policy") == other.get("model_version_policy")
        assert pull["volumeMounts"] == serve["volumeMounts"]
        (place,) = [word for word in pull["args"][1:] if not word.startswith("--")] or [one["config_path"]]
        assert place in (other.get("model_path"), other.get("config_path"))


def test_a_claim_of_one_pod_is_free_before_the_next_pod_wants_it(chart: Helm) -> None:
    def surge(**values: Any) -> Any:
        strategy = of_kind(rendered(chart, ONE_MODEL, **values), "Deployment")["spec"].get("strategy", {})
        # Kubernetes' own is 25 %, rounded up.
        return strategy.get("rollingUpdate", {}).get("maxSurge", 1)

    assert surge(cache={"kind": "claim"}) == 0
    assert surge(cache={"kind": "claim", "access_modes": ["ReadWriteOncePod"]}) == 0
    assert surge(cache={"kind": "claim", "access_modes": ["ReadWriteMany"]}, replicas=3) == 1
    assert surge(cache={"kind": "ephemeral"}, replicas=3) == 1
    assert surge(cache={"kind": "claim"}, update_strategy={"rollingUpdate": {"maxSurge": 2}}) == 2
    together: Values = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}}
    assert surge(cache={"kind": "claim"}, replicas=2, affinity=together) == 0


SECRETS = {
    "aws_access_key_id": "AKIAEXAMPLE",
    "aws_secret_access_key": "s3cr3t-key",
    "azure_storage_connection_string": "AccountKey=s3cr3t;x",
}


def test_credentials_are_in_the_secret_alone(chart: Helm) -> None:
    objects = rendered(chart, ONE_MODEL, **SECRETS)
    secret = of_kind(objects, "Secret")
    assert set(secret["stringData"].values()) == set(SECRETS.values())
    others = json.dumps([one for one in objects if one is not secret])
    assert not any(text in others for text in SECRETS.values())
    names = [one["secretRef"]["name"] for one in server(objects)["envFrom"]]
    assert names == [secret["metadata"]["name"]]


def test_another_key_starts_other_pods(chart: Helm) -> None:
    def annotations(key: str) -> Any:
        objects = rendered(chart, ONE_MODEL, aws_secret_access_key=key)
        return of_kind(objects, "Deployment")["spec"]["template"]["metadata"]["annotations"]

    assert annotations("one") == annotations("one") != annotations("another")


def test_another_config_starts_no_pods(chart: Helm) -> None:
    def pods(name: str) -> Any:
        config = {"model_config_list": [{"config": {"name": name, "base_path": "s3://b/p"}}]}
        objects = rendered(chart, {"config": config})
        assert name in of_kind(objects, "ConfigMap")["data"]["config.json"]
        # The kubelet never renews what is mounted by a subPath.
        assert not any("subPath" in one for one in server(objects)["volumeMounts"])
        return of_kind(objects, "Deployment")["spec"]["template"]

    assert pods("one") == pods("another")


def test_the_key_of_gcp_is_where_the_variable_says(chart: Helm) -> None:
    objects = rendered(chart, ONE_MODEL, gcp_creds_secret_name="my-gcp", gcp_creds_secret_key="key.json")
    spec = of_kind(objects, "Deployment")["spec"]["template"]["spec"]
    (volume,) = [one for one in spec["volumes"] if "secret" in one]
    (mount,) = [one for one in server(objects)["volumeMounts"] if one["name"] == volume["name"]]
    (path,) = [one["value"] for one in server(objects)["env"] if one["name"] == "GOOGLE_APPLICATION_CREDENTIALS"]
    assert volume["secret"]["secretName"] == "my-gcp"
    assert path == f"{mount['mountPath']}/key.json"


def test_the_pods_are_who_the_clouds_know(chart: Helm) -> None:
    objects = rendered(chart, PRODUCTION)
    account = of_kind(objects, "ServiceAccount")
    assert account["metadata"]["annotations"] == {
        "eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/decant",
        "iam.gke.io/gcp-service-account": "decant@my-project.iam.gserviceaccount.com",
        "azure.workload.identity/client-id": "11111111-2222-3333-4444-555555555555",
    }
    template = of_kind(objects, "Deployment")["spec"]["template"]
    assert template["spec"]["serviceAccountName"] == account["metadata"]["name"]
    assert template["metadata"]["labels"]["azure.workload.identity/use"] == "true"
    assert "annotations" not in of_kind(rendered(chart, ONE_MODEL), "ServiceAccount")["metadata"]


MANAGING = {"RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload", "ModelStatistics"}


def test_ingress_and_gateway_pass_on_predictions_and_no_reload(chart: Helm) -> None:
    objects = rendered(chart, with_values(PRODUCTION, gateway=OTHERS["gateway"]))
    paths: dict[str, set[str]] = {"rest": set(), "grpc": set()}
    for one in objects:
        if one["kind"] == "Ingress":
            for rule in one["spec"]["rules"]:
                for path in rule["http"]["paths"]:
                    paths[path["backend"]["service"]["port"]["name"]].add(path["path"])
    matches = of_kind(objects, "HTTPRoute")["spec"]["rules"][0]["matches"]
    methods = [match["method"] for match in of_kind(objects, "GRPCRoute")["spec"]["rules"][0]["matches"]]
    assert paths["rest"] == {match["path"]["value"] for match in matches}
    assert paths["grpc"] == {f"/{'/'.join([one['service'], *filter(None, [one.get('method')])])}" for one in methods}
    # The rest of this service is the repository's and what the protocol has been extended by.
    own = {path.rpartition("/")[2] for path in paths["grpc"] if "GRPCInferenceService/" in path}
    assert own == {*OPEN_INFERENCE_METHODS, "ModelStreamInfer"} - MANAGING
    # As prefixes of whole elements, as Ingress and HTTPRoute have them.
    for port, secret in [
        ("rest", "/v1/config/reload"),
        ("rest", "/v2/repository/models/a/unload"),
        ("grpc", "/tensorflow.serving.ModelService/HandleReloadConfigRequest"),
        ("grpc", "/inference.GRPCInferenceService/RepositoryModelUnload"),
    ]:
        assert not [path for path in paths[port] if f"{secret}/".startswith(f"{path}/")]


def test_ingress_has_its_certificates(chart: Helm) -> None:
    for one in rendered(chart, PRODUCTION):
        if one["kind"] == "Ingress":
            hosts = {rule["host"] for rule in one["spec"]["rules"]}
            assert {host for tls in one["spec"]["tls"] for host in tls["hosts"]} == hosts


def test_the_policy_lets_in_who_is_named_to_two_ports(chart: Helm) -> None:
    policy = of_kind(rendered(chart, PRODUCTION), "NetworkPolicy")["spec"]
    (rule,) = policy["ingress"]
    assert {one["port"] for one in rule["ports"]} == {"grpc", "rest"}
    assert rule["from"][0] == PRODUCTION["network_policy"]["from"][0]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert 9000 in [port["port"] for one in policy["egress"] for port in one["ports"]]
    anyone = of_kind(rendered(chart, ONE_MODEL, network_policy={"enabled": True}), "NetworkPolicy")["spec"]
    assert "from" not in anyone["ingress"][0]
    assert anyone["policyTypes"] == ["Ingress"]


def test_autoscaling_owns_the_number_of_pods(chart: Helm) -> None:
    assert of_kind(rendered(chart, ONE_MODEL, replicas=3), "Deployment")["spec"]["replicas"] == 3
    for values, kind, target in (
        (PRODUCTION, "HorizontalPodAutoscaler", "scaleTargetRef"),
        (OTHERS, "ScaledObject", "scaleTargetRef"),
    ):
        objects = rendered(chart, values)
        deployment = of_kind(objects, "Deployment")
        assert "replicas" not in deployment["spec"]
        assert of_kind(objects, kind)["spec"][target]["name"] == deployment["metadata"]["name"]


def test_keda_asks_for_a_metric_that_there_is(chart: Helm) -> None:
    objects = rendered(chart, OTHERS)
    first, second = of_kind(objects, "ScaledObject")["spec"]["triggers"]
    assert first["metadata"]["query"] == 'sum(ovms_current_requests{namespace="models",service="prod-decant"})'
    assert all(isinstance(text, str) for text in first["metadata"].values())
    assert second == OTHERS["keda"]["triggers"][0]
    assert flags(server(objects)["args"])["metrics_enable"] == "true"
    assert of_kind(objects, "Service")["metadata"]["name"] == "prod-decant"


def test_prometheus_finds_the_metrics(chart: Helm) -> None:
    objects = rendered(chart, ONE_MODEL, service_monitor={"enabled": True, "labels": {"release": "prometheus"}})
    monitor = of_kind(objects, "ServiceMonitor")
    assert admits(monitor["spec"]["selector"]["matchLabels"], of_kind(objects, "Service")["metadata"]["labels"])
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("rest", "/metrics")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert flags(server(objects)["args"])["metrics_enable"] == "true"
    assert "metrics_enable" not in flags(server(rendered(chart, ONE_MODEL))["args"])


def test_the_dashboard_is_the_one_of_this_tree(chart: Helm, tmp_path: Path) -> None:
    (found,) = [one for one in rendered(chart, PRODUCTION) if "dashboard" in one["metadata"]["name"]]
    ours = json.loads((ROOT / "infra" / "grafana" / "decant.json").read_text())
    assert json.loads(found["data"]["decant.json"]) == ours
    # And it is no link in what is sent to others.
    with tarfile.open(chart.call("package", str(CHART), str(tmp_path))) as archive:
        member = archive.extractfile("decant/dashboards/decant.json")
        assert member is not None
        assert json.loads(member.read()) == ours


def test_pods_are_spread_by_their_own_labels(chart: Helm) -> None:
    objects = rendered(chart, PRODUCTION)
    (constraint,) = of_kind(objects, "Deployment")["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert constraint["labelSelector"]["matchLabels"] == of_kind(objects, "Service")["spec"]["selector"]
    assert constraint["maxSkew"] == 1
    assert (
        of_kind(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"]
        == constraint["labelSelector"]["matchLabels"]
    )


def test_security_goes_to_the_pod_or_the_container_as_the_field_does(chart: Helm) -> None:
    given = {"fsGroup": None, "runAsUser": 5000, "supplementalGroups": [44], "readOnlyRootFilesystem": False}
    objects = rendered(chart, ONE_MODEL, security_context=given)
    pod = of_kind(objects, "Deployment")["spec"]["template"]["spec"]["securityContext"]
    assert (pod["runAsUser"], pod["supplementalGroups"]) == (5000, [44])
    assert "fsGroup" not in pod
    assert server(objects)["securityContext"]["readOnlyRootFilesystem"] is False
    assert chart.wrong_with(objects, "1.37") == []


@pytest.mark.parametrize(
    ("release", "name"),
    [("prod", "prod-decant"), ("decant", "decant"), ("ovms-app", "ovms-app"), ("x" * 53, f"{'x' * 53}-decant")],
)
def test_a_release_of_ovms_keeps_its_address(chart: Helm, release: str, name: str) -> None:
    texts = chart.render(ONE_MODEL, name=release)
    assert of_kind(objects_in(texts["service.yaml"]), "Service")["metadata"]["name"] == name


REFUSED: list[tuple[Values, str]] = [
    ({}, "nothing to serve: set model_path"),
    ({"model_path": "s3://b/p"}, "model_path needs model_name"),
    ({**ONE_MODEL, "config": PRODUCTION["config"]}, "not model_path and config"),
    ({**ONE_MODEL, "max_sequence_number": "many"}, "/max_sequence_number"),
    ({**ONE_MODEL, "rest_port": None, "cache": None, "pull": None}, "missing properties 'rest_port', 'cache', 'pull'"),
    ({**ONE_MODEL, "cache": {"size": None}}, "at '/cache': missing property 'size'"),
    ({**ONE_MODEL, "keda": {"prometheus": {"threshold": None}}}, "at '/keda/prometheus': missing property 'threshold'"),
    ({**ONE_MODEL, "pdb": {"enabled": True, "max_unavailable": None}}, "neither min_available nor max_unavailable"),
    ({**ONE_MODEL, "hpa": {"enabled": True}, "resources": None}, "hpa.cpu_percent is of resources.requests.cpu"),
    ({**ONE_MODEL, "cache": {"kind": "claim"}, "replicas": 2}, "the claim of cache is ReadWriteOnce, so on one node"),
    (with_values(PRODUCTION, affinity=None, cache={"kind": "claim"}), "there may be 10 pods: want cache.access_modes"),
    (
        with_values(PRODUCTION, service_account={"create": False}),
        "service_account.create is false, so workload_identity",
    ),
    ({**ONE_MODEL, "fullname_override": "1e5"}, "the Service would be called 1e5; want fullname_override"),
    (
        {**ONE_MODEL, "models_host_path": "/a", "models_volume_claim": "b"},
        "not models_host_path and models_volume_claim",
    ),
    ({**ONE_MODEL, "grpc_port": 8081}, "grpc_port and rest_port are both 8081"),
    ({**ONE_MODEL, "rest_port": 0}, "/rest_port"),
    ({**ONE_MODEL, "grpc_port": "8080"}, "/grpc_port"),
    ({**ONE_MODEL, "model_path": "https://b/p"}, "/model_path"),
    ({**ONE_MODEL, "modle_name": "x"}, "modle_name"),
    ({**ONE_MODEL, "cache": {"kind": "disk"}}, "/cache/kind"),
    ({**ONE_MODEL, "cache": {"size": "8 GB"}}, "/cache/size"),
    ({**ONE_MODEL, "cache": {"sise": "8Gi"}}, "sise"),
    ({**ONE_MODEL, "log_level": "ALL"}, "/log_level"),
    ({**ONE_MODEL, "service_type": "ExternalName"}, "/service_type"),
    ({**ONE_MODEL, "settings": {"rest_port": 1}}, "rest_port"),
    ({**ONE_MODEL, "settings": {"max_inflight": 2}}, "max_inflight"),
    (
        {**ONE_MODEL, "settings": {"grpc_channel_arguments": {"grpc.max_connection_age_ms": 1}}},
        "/grpc_channel_arguments",
    ),
    ({**ONE_MODEL, "config_path": "", "config": {"models": []}, "model_path": ""}, "model_config_list"),
    ({**ONE_MODEL, "workload_identity": {"aws_role_arn": "decant"}}, "/workload_identity/aws_role_arn"),
    ({**ONE_MODEL, "hpa": {"enabled": True}}, "hpa.cpu_percent is of resources.requests.cpu, which is not set"),
    ({**PRODUCTION, "hpa": {"enabled": True, "cpu_percent": None}}, "hpa has nothing to go by"),
    ({**PRODUCTION, "hpa": {"enabled": True, "min_replicas": 5, "max_replicas": 2}}, "min_replicas 5 is more than"),
    (with_values(PRODUCTION, keda={"enabled": True}), "enable hpa or keda, not both"),
    ({**ONE_MODEL, "keda": {"enabled": True}}, "keda has nothing to go by"),
    (with_values(OTHERS, metrics_list="ovms_streams, ovms_requests_success"), "which metrics_list leaves out"),
    (with_values(OTHERS, keda={"triggers": []}), "keda.min_replicas 0 needs one of keda.triggers"),
    ({**ONE_MODEL, "ingress": {"enabled": True}}, "ingress is enabled and has no hosts"),
    ({**ONE_MODEL, "ingress": {"enabled": True, "hosts": ["a_b"]}}, "/ingress/hosts/0"),
    ({**ONE_MODEL, "gateway": {"enabled": True}}, "gateway is enabled and has no parent_refs"),
    (with_values(PRODUCTION, grpc_port=0), "grpc_port is 0"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED)
def test_what_cannot_be_is_refused_by_name(chart: Helm, values: Values, message: str) -> None:
    with pytest.raises(HelmRefusedError) as caught:
        chart.render(values)
    assert message in str(caught.value)


def test_the_notes_say_what_to_paste(chart: Helm) -> None:
    notes = chart.render(OVMS)["NOTES.txt"]
    assert "port-forward service/prod-decant 8081:8081" in notes
    assert "curl http://localhost:8081/v1/models/resnet" in notes
    assert "set service.load_balancer_source_ranges" in chart.render(ONE_MODEL)["NOTES.txt"]
    assert "curl https://models.example.com/v1/models/digits" in chart.render(PRODUCTION)["NOTES.txt"]


# Of the pod of helm test, which asks once and listens to nobody: probes, a policy of its own. A digest makes Always no
# safer than IfNotPresent.
ANSWERED = ["CKV_K8S_8", "CKV_K8S_9", "CKV_K8S_15", "CKV2_K8S_6"]


@pytest.mark.slow
@pytest.mark.skipif(not CHECKOV.exists(), reason="needs checkov: run infra/ci/install.sh")
def test_checkov_has_nothing_to_say_of_production(chart: Helm, tmp_path: Path) -> None:
    stream = tmp_path / "chart.yaml"
    with stream.open("w") as file:
        YAML().dump_all(rendered(chart, PRODUCTION), file)
    argv = [sys.executable, "-m", "checkov.main", "-f", str(stream), "--framework", "kubernetes", "--skip-download"]
    done = subprocess.run(
        [*argv, "--output", "json", "--quiet"],
        env={"PYTHONPATH": str(CHECKOV), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    assert report["summary"]["passed"] > 100
    failed = {(one["check_id"], one["resource"]) for one in report["results"]["failed_checks"]}
    assert {one for one in failed if one[0] not in ANSWERED} == set()
    # On the servers' own pods nothing but that.
    assert {check for check, resource in failed if resource.startswith("Deployment")} <= {"CKV_K8S_15"}
