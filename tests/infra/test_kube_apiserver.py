"""The chart in a cluster's own server: installed, upgraded, rolled back and removed by Helm, every object checked.

The server is of 1.20, the oldest that the chart says it runs on, so this is also where older versions of APIs are asked
for. Newer ones are in test_helm_chart.py, against their schemas.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.infra.helm_values import NOT_IN, OTHERS, PRODUCTION, SETS, Values, with_values
from tests.infra.kubernetes_objects import objects_in
from tests.servers import kube_apiserver as servers
from tests.servers.helm import CHART, IS_INSTALLED, NEEDS_HELM, Helm, HelmRefusedError, helm
from tests.servers.kube_apiserver import KubeApiserver, RefusedError, kube_apiserver

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.skipif(not servers.IS_INSTALLED, reason=servers.NEEDS_KUBE_APISERVER),
    pytest.mark.skipif(not IS_INSTALLED, reason=NEEDS_HELM),
]

OWN_KINDS = {name: values for name, values in SETS.items() if values is not OTHERS and name not in NOT_IN}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeApiserver]:
    with kube_apiserver(tmp_path_factory.mktemp("kube")) as server:
        yield server


@pytest.fixture(scope="module")
def helm_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Helm]:
    with helm(tmp_path_factory.mktemp("helm") / "helm.log") as process:
        yield process


class Release:
    """What ``helm --namespace NAMESPACE`` does to a release."""

    def __init__(self, process: Helm, cluster: KubeApiserver, namespace: str) -> None:
        cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        self._process, self._cluster, self.namespace = process, cluster, namespace

    def do(self, action: str, *arguments: Any, **options: Any) -> Any:
        return self._process.call("act", str(self._cluster.kubeconfig), self.namespace, action, *arguments, **options)

    def install(self, values: Values) -> list[dict[str, Any]]:
        """Install and return what Helm sent, hooks left out."""
        return objects_in(self.do("install", str(CHART), "prod", values, namespace=self.namespace)["manifest"])

    def get(self, api_version: str, kind: str, name: str = "prod-decant") -> Any:
        return self._cluster.get(api_version, kind, self.namespace, name)

    def is_gone(self, one: dict[str, Any]) -> bool:
        try:
            found = self.get(one["apiVersion"], one["kind"], one["metadata"]["name"])
        except RefusedError as exc:
            return "not found" in str(exc)
        # A claim waits for a controller, which is not here.
        return found["metadata"].get("finalizers") == ["kubernetes.io/pvc-protection"] and (
            "deletionTimestamp" in found["metadata"]
        )


@pytest.fixture
def release(request: pytest.FixtureRequest, helm_process: Helm, cluster: KubeApiserver) -> Release:
    name = request.node.name.replace("[", "-").replace("]", "").replace("_", "-").replace(" ", "-")
    return Release(helm_process, cluster, "".join(c for c in name if c.isalnum() or c == "-").lower()[-50:].strip("-"))


@pytest.mark.parametrize("name", list(OWN_KINDS))
def test_a_release_installs_and_leaves_nothing_behind(release: Release, name: str) -> None:
    sent = release.install(OWN_KINDS[name])
    kept = [release.get(one["apiVersion"], one["kind"], one["metadata"]["name"]) for one in sent]
    assert [one["metadata"]["labels"]["app.kubernetes.io/instance"] for one in kept] == ["prod"] * len(sent)
    release.do("uninstall", "prod")
    for one in sent:
        assert release.is_gone(one)


@pytest.mark.parametrize("name", list(OWN_KINDS))
def test_the_server_keeps_every_field_that_it_is_sent(release: Release, cluster: KubeApiserver, name: str) -> None:
    for one in release.install(OWN_KINDS[name]):
        again = cluster.create(
            with_values(one, metadata={"name": "again", "namespace": release.namespace}), dry_run=True
        )
        assert missing(one.get("spec"), again.get("spec")) == []
    release.do("uninstall", "prod")


def missing(sent: Any, kept: Any, path: str = "") -> list[str]:
    """Return the paths of fields that were sent, and that an old server has dropped."""
    if isinstance(sent, dict):
        lost = [f"{path}.{key}" for key in sent if not isinstance(kept, dict) or key not in kept]
        there = [key for key in sent if f"{path}.{key}" not in lost]
        return lost + [one for key in there for one in missing(sent[key], kept[key], f"{path}.{key}")]
    if isinstance(sent, list):
        return [one for index, item in enumerate(sent) for one in missing(item, kept[index], f"{path}[{index}]")]
    return []


def test_an_old_cluster_gets_what_it_knows(release: Release) -> None:
    versions = {one["kind"]: one["apiVersion"] for one in release.install(PRODUCTION)}
    assert versions["HorizontalPodAutoscaler"] == "autoscaling/v2beta2"
    assert versions["PodDisruptionBudget"] == "policy/v1beta1"
    release.do("uninstall", "prod")


def test_a_release_is_upgraded_and_rolled_back(release: Release) -> None:
    release.install(SETS["ovms"])
    release.do("upgrade", str(CHART), "prod", with_values(SETS["ovms"], replicas=5, nireq=8))
    deployment = release.get("apps/v1", "Deployment")
    assert deployment["spec"]["replicas"] == 5
    assert "--nireq=8" in deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    release.do("rollback", "prod", version=1)
    deployment = release.get("apps/v1", "Deployment")
    assert deployment["spec"]["replicas"] == 2
    assert "--nireq=4" in deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    assert [one["revision"] for one in release.do("history", "prod")] == [1, 2, 3]


def test_autoscaling_keeps_the_number_of_pods_over_an_upgrade(release: Release, cluster: KubeApiserver) -> None:
    release.install(PRODUCTION)
    path = f"/apis/apps/v1/namespaces/{release.namespace}/deployments/prod-decant/scale"
    cluster.request("PUT", path, with_values(cluster.request("GET", path), spec={"replicas": 7}))
    release.do("upgrade", str(CHART), "prod", with_values(PRODUCTION, log_level="DEBUG"))
    assert release.get("apps/v1", "Deployment")["spec"]["replicas"] == 7


def test_autoscaling_begins_with_the_pods_that_there_are(release: Release) -> None:
    values = with_values(PRODUCTION, hpa={"enabled": False}, replicas=5)
    release.install(values)
    for hpa, replicas in (
        ({"enabled": True}, 5),
        # And the next upgrade, which finds the field in what was sent last.
        ({"enabled": True, "min_replicas": 2}, 5),
        ({"enabled": True, "max_replicas": 4}, 4),
    ):
        release.do("upgrade", str(CHART), "prod", with_values(values, hpa=hpa))
        assert release.get("apps/v1", "Deployment")["spec"]["replicas"] == replicas


def test_a_release_gets_a_claim_of_one_pod(release: Release) -> None:
    release.install(SETS["one model"])
    for name, surge in (("one model", "25%"), ("a claim that is there", 0), ("one model", "25%")):
        release.do("upgrade", str(CHART), "prod", SETS[name])
        assert release.get("apps/v1", "Deployment")["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == surge


@pytest.mark.parametrize("namespace", ["2024", "on"])
def test_a_namespace_may_look_like_a_number_or_a_boolean(
    helm_process: Helm, cluster: KubeApiserver, namespace: str
) -> None:
    release = Release(helm_process, cluster, namespace)
    release.install(SETS["one model"])
    assert release.get("apps/v1", "Deployment")["metadata"]["namespace"] == namespace
    release.do("uninstall", "prod")


def test_what_the_values_cannot_be_is_refused_before_anything_is_made(release: Release, cluster: KubeApiserver) -> None:
    with pytest.raises(HelmRefusedError, match="nothing to serve"):
        release.install({})
    assert cluster.get("apps/v1", "Deployment", release.namespace)["items"] == []


@pytest.mark.parametrize("name", list(OWN_KINDS))
def test_the_pod_of_helm_test_would_be_taken(
    release: Release, helm_process: Helm, cluster: KubeApiserver, name: str
) -> None:
    (pod,) = objects_in(helm_process.render(OWN_KINDS[name], namespace=release.namespace)["tests/ask.yaml"])
    taken = cluster.create(pod, dry_run=True)
    assert missing(pod["spec"], taken["spec"]) == []
