"""Values that the chart is rendered, checked and installed with."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML

from tests.servers.helm import CHART

Values = dict[str, Any]

ONE_MODEL: Values = {"model_name": "digits", "model_path": "s3://my-models/vision/digits"}
CONFIG: Values = {"model_config_list": [{"config": {"name": "digits", "base_path": "s3://my-models/vision/digits"}}]}

# As its users have written them: text where OVMS's chart pasted text, quotes escaped for that, numbers as text.
OVMS: Values = {
    "replicas": 2,
    "image_name": "registry.example.com/decant:0.1.0",
    "grpc_port": 8080,
    "rest_port": 8081,
    "file_system_poll_wait_seconds": 0,
    "model_name": "resnet",
    "model_path": "/models/resnet",
    "target_device": "CPU",
    "stateful": "",
    "idle_sequence_cleanup": False,
    "low_latency_transformation": False,
    "max_sequence_number": "",
    "nireq": "4",
    "batch_size": "auto",
    "layout": "NHWC",
    "shape": "(1,3,224,224)",
    "model_version_policy": '{\\"latest\\": { \\"num_versions\\":1 }}',
    "plugin_config": {"CPU_THROUGHPUT_STREAMS": "CPU_THROUGHPUT_AUTO"},
    "gcp_creds_secret_name": "",
    "aws_access_key_id": "",
    "aws_secret_access_key": "",
    "aws_region": "",
    "s3_compat_api_endpoint": "",
    "azure_storage_connection_string": "",
    "log_level": "TRACE",
    "service_type": "NodePort",
    "resources": {"limits": {"cpu": 8.0, "memory": "512Mi"}},
    "node_selector": {"disk": "ssd"},
    "annotations": {"prometheus.io/scrape": "false"},
    "security_context": {"runAsUser": 5000, "runAsGroup": 5000},
    "models_host_path": "/opt/models",
    "models_volume_claim": "",
    "http_proxy": "http://proxy:3128",
    "https_proxy": "http://proxy:3128",
    "no_proxy": ".svc",
}

PRODUCTION: Values = {
    "image_name": f"registry.example.com/decant@sha256:{'1a' * 32}",
    "image_pull_policy": "IfNotPresent",
    "image_pull_secrets": [{"name": "registry"}],
    "config": CONFIG,
    "service_type": "ClusterIP",
    "resources": {
        "requests": {"cpu": "1", "memory": "2Gi", "ephemeral-storage": "10Gi"},
        "limits": {"cpu": 2, "memory": "2Gi", "ephemeral-storage": "10Gi"},
    },
    "workload_identity": {
        "aws_role_arn": "arn:aws:iam::123456789012:role/decant",
        "gcp_service_account": "decant@my-project.iam.gserviceaccount.com",
        "azure_client_id": "11111111-2222-3333-4444-555555555555",
    },
    "azure_storage_account": "mymodels",
    "settings": {"max_body_size": 134217728, "lazy": True, "preload": ["digits"], "max_in_flight": 64},
    "hpa": {"enabled": True, "memory_percent": 90, "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}}},
    "pdb": {"enabled": True},
    "update_strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
    "topology_spread_constraints": [
        {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]}]}
                ]
            }
        }
    },
    "tolerations": [{"key": "inference", "operator": "Exists", "effect": "NoSchedule"}],
    "priority_class_name": "serving",
    "labels": {"team": "vision"},
    "pod_labels": {"sidecar.istio.io/inject": "false"},
    "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "true"},
    "extra_env": [{"name": "AWS_STS_REGIONAL_ENDPOINTS", "value": "regional"}],
    "extra_volumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "extra_volume_mounts": [{"name": "ca", "mountPath": "/etc/decant-ca", "readOnly": True}],
    "network_policy": {
        "enabled": True,
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "web"}}}],
        "egress": {"enabled": True, "rules": [{"ports": [{"port": 9000, "protocol": "TCP"}]}]},
    },
    "ingress": {
        "enabled": True,
        "class_name": "nginx",
        "annotations": {"nginx.ingress.kubernetes.io/proxy-body-size": "64m"},
        "hosts": ["models.example.com"],
        "tls": [{"secretName": "models-tls", "hosts": ["models.example.com"]}],
    },
    "grpc_ingress": {
        "enabled": True,
        "class_name": "nginx",
        "annotations": {"nginx.ingress.kubernetes.io/backend-protocol": "GRPC"},
        "hosts": ["grpc.example.com"],
        "tls": [{"secretName": "grpc-tls", "hosts": ["grpc.example.com"]}],
    },
    "dashboard": {"enabled": True},
    "metrics_enable": True,
    "test": {"model": "digits", "request": {"instances": [[0.5, 1]]}},
}

# Its resources are of other people's: no server here knows their kinds.
OTHERS: Values = {
    **ONE_MODEL,
    "service_monitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "keda": {
        "enabled": True,
        "min_replicas": 0,
        "prometheus": {"server_address": "http://prometheus.monitoring:9090", "authentication_ref": "prometheus"},
        "triggers": [
            {
                "type": "prometheus",
                "metadata": {
                    "serverAddress": "http://prometheus.monitoring:9090",
                    "query": 'sum(rate(nginx_ingress_controller_requests{ingress="prod-decant-rest"}[1m]))',
                    "threshold": "10",
                },
            }
        ],
        "advanced": {"restoreToOriginalReplicaCount": True},
        "fallback": {"failureThreshold": 3, "replicas": 2},
    },
    "gateway": {
        "enabled": True,
        "parent_refs": [{"name": "public", "namespace": "gateways"}],
        "hostnames": ["models.example.com"],
        "grpc_hostnames": ["grpc.example.com"],
    },
}

_DEFAULTS: Values = YAML(typ="safe").load(CHART / "values.yaml")
# As in a file in which what is below these is a comment.
COMMENTED_OUT: Values = {
    **dict.fromkeys(name for name, value in _DEFAULTS.items() if not value and value is not False),
    "security_context": None,
}

SETS: Mapping[str, Values] = {
    "one model": ONE_MODEL,
    "ovms": OVMS,
    "ovms with its ConfigMap": {**OVMS, "config_configmap_name": "ovms-config", "service_type": "LoadBalancer"},
    "ovms on a claim": {"config_path": "/models/config.json", "models_volume_claim": "models"},
    "ovms with keys": {
        **ONE_MODEL,
        "aws_access_key_id": "AKIAEXAMPLE",
        "aws_secret_access_key": "not-a-real-secret",
        "azure_storage_connection_string": "AccountName=a;AccountKey=not-a-real-key",
        "gcp_creds_secret_name": "my-gcp",
    },
    "production": PRODUCTION,
    "a claim for the cache": {
        **ONE_MODEL,
        "cache": {"kind": "claim", "size": "20Gi", "storage_class": "fast", "access_modes": ["ReadWriteMany"]},
        "pull": {"enabled": True},
        "existing_secret": "credentials",
        "extra_env_from": [{"configMapRef": {"name": "more"}}],
        "pdb": {"enabled": True, "min_available": "50%"},
    },
    "a volume of each pod's": {**ONE_MODEL, "cache": {"kind": "ephemeral", "size": "20Gi"}},
    "a claim that is there": {**ONE_MODEL, "cache": {"kind": "claim", "existing_claim": "cache"}},
    "all commented out": {**COMMENTED_OUT, **ONE_MODEL},
    "rest only, in memory": {
        **ONE_MODEL,
        "grpc_port": 0,
        "cache": {"medium": "Memory", "size": "1Gi"},
        "service_account": {"create": False, "name": "mine"},
        "liveness_probe": None,
        "pre_stop_seconds": 0,
        "service": {
            "annotations": {"a/b": "c"},
            "load_balancer_source_ranges": ["203.0.113.0/24"],
            "external_traffic_policy": "Local",
            "session_affinity": "ClientIP",
            "rest_app_protocol": "http",
        },
        "network_policy": {"enabled": True},
        "sidecars": [{"name": "proxy", "image": "envoy:1"}],
        "init_containers": [{"name": "wait", "image": "busybox:1"}],
    },
    "an image of models": {
        "model_name": "digits",
        "model_path": "/models/digits",
        "models_image": "registry.example.com/models:1",
    },
    "others' kinds": OTHERS,
}
NOT_IN = {"an image of models": (1, 31), "a volume of each pod's": (1, 21)}
"""Sets with fields that are no older than a version."""


def with_values(values: Values, **more: Any) -> Values:
    """Return values with others laid over them, at any depth, as Helm lays them over its defaults."""
    merged = copy.deepcopy(values)
    for name, value in more.items():
        is_both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = with_values(merged[name], **value) if is_both else value
    return merged
