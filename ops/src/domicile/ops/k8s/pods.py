"""The bases: one workload for each role, without a place. Overlays say where; a base alone has no image and no node.

All are StatefulSets with a folder of their own: a process starts from the last topology (a router from the last map)
that its folder holds while the directory is gone. Probes ask with the process's own certificate; the time that a pod is
given to end is what its drain may take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from domicile.model.access import Role
from domicile.ops.k8s.names import EDGE_PORT, ROLE, Object
from domicile.service import ProcessSettings

USER: Final = 10_001
RUN: Final = "/run/domicile"
STATE: Final = "/var/lib/domicile"
PRE_STOP_SECONDS: Final = 10
"""Until no balancer sends to the pod any more; only then is the process told to end."""
MARGIN_SECONDS: Final = 10
DRAIN_SECONDS: Final = int(ProcessSettings.model_fields["drain_seconds"].default)
PEPPERED: Final = frozenset({Role.ROUTER, Role.APP})
SETTINGS: Final = "settings"
"""The ConfigMap of a workload's DOMICILE_* variables is ``<role>-settings``."""


@dataclass(frozen=True, slots=True)
class Kind:
    """``drains``: how often the drain may be waited for: a router's listeners end one after the other."""

    role: Role
    image: str
    command: tuple[str, ...]
    cpu: str
    memory: str
    limit: str
    ports: tuple[str, ...] = ("tls",)
    drains: int = 1
    scales: bool = True


KINDS: Final = {
    kind.role: kind
    for kind in (
        Kind(Role.DIRECTORY, "directory", ("domicile-directory", "serve"), "500m", "256Mi", "1Gi", scales=False),
        Kind(
            Role.ROUTER, "router", ("domicile-router", "serve"), "1", "512Mi", "2Gi", ports=("public", "tls"), drains=2
        ),
        Kind(Role.GATEWAY, "cell", ("domicile-cell", "serve"), "500m", "256Mi", "1Gi"),
        Kind(Role.KEYS, "cell", ("domicile-keys", "serve"), "250m", "256Mi", "512Mi", scales=False),
        Kind(Role.APP, "app", (), "500m", "256Mi", "1Gi"),
    )
}


def grace_seconds(kind: Kind) -> int:
    return PRE_STOP_SECONDS + kind.drains * DRAIN_SECONDS + MARGIN_SECONDS


SAFE: Final[Object] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
}
POD_SAFE: Final[Object] = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}


def _probe(question: str, period: int, failures: int) -> Object:
    return {
        "exec": {"command": ["python", "-m", "domicile.identity.probe", question]},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _mounts(kind: Kind) -> tuple[list[Object], list[Object]]:
    """Mounts and volumes. The certificate's is the first volume: an overlay names its Secret."""
    secret = {"defaultMode": 0o440}
    volumes: list[Object] = [
        {"name": "identity", "secret": {"secretName": f"{kind.role}-tls", **secret}},
        {"name": "authorities", "configMap": {"name": "authorities"}},
        {"name": "operators", "configMap": {"name": "operators"}},
        {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
    ]
    if kind.role in PEPPERED:
        volumes.append({"name": "pepper", "secret": {"secretName": "pepper", **secret}})
    if kind.role is Role.ROUTER:
        volumes.append({"name": "public", "secret": {"secretName": "router-public-tls", **secret}})
    mounts: list[Object] = [
        {"name": each["name"], "mountPath": f"{RUN}/{each['name']}", "readOnly": True}
        for each in volumes
        if each["name"] != "scratch"
    ]
    mounts += [{"name": "scratch", "mountPath": "/tmp"}, {"name": "state", "mountPath": STATE}]  # noqa: S108
    return mounts, volumes


def _container(kind: Kind) -> tuple[Object, list[Object]]:
    mounts, volumes = _mounts(kind)
    container: Object = {
        "name": str(kind.role),
        "image": f"domicile-{kind.image}",
        "envFrom": [{"configMapRef": {"name": f"{kind.role}-{SETTINGS}"}}],
        "resources": {"requests": {"cpu": kind.cpu, "memory": kind.memory}, "limits": {"memory": kind.limit}},
        "startupProbe": _probe("live", 5, 60),
        "readinessProbe": _probe("ready", 15, 2),
        "livenessProbe": _probe("live", 30, 4),
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
        "securityContext": SAFE,
        "volumeMounts": mounts,
    }
    if kind.command:
        container["command"] = list(kind.command)
    return container, volumes


def stateful(name: str, grace: int, containers: list[Object], volumes: list[Object], **pod: Any) -> Object:
    """A workload with a folder for each pod, spread over nodes of its zone."""
    labels = {"app.kubernetes.io/name": name, ROLE: name}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "serviceName": name,
            "replicas": 1,
            "podManagementPolicy": "Parallel",
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Delete"},
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": grace,
                    "securityContext": POD_SAFE,
                    "topologySpreadConstraints": [
                        {
                            "maxSkew": 1,
                            "topologyKey": "kubernetes.io/hostname",
                            "whenUnsatisfiable": "ScheduleAnyway",
                            "labelSelector": {"matchLabels": labels},
                        }
                    ],
                    "containers": containers,
                    "volumes": volumes,
                    **pod,
                },
            },
            "volumeClaimTemplates": [
                {
                    "metadata": {"name": "state"},
                    "spec": {"accessModes": ["ReadWriteOncePod"], "resources": {"requests": {"storage": "8Gi"}}},
                }
            ],
        },
    }


def headless(name: str, ports: list[str]) -> Object:
    """Its name leads to pods themselves, whose addresses lie in their zone's network. An overlay numbers the ports."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": {ROLE: name}},
        "spec": {
            "clusterIP": "None",
            "selector": {ROLE: name},
            "ports": [{"name": port, "port": 1 + number, "protocol": "TCP"} for number, port in enumerate(ports)],
        },
    }


def budget(name: str) -> Object:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {ROLE: name}}},
    }


def scaler(name: str) -> Object:
    """By processor time; an overlay says how few and how many. Down slowly: a pod that goes drains."""
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": name},
            "minReplicas": 2,
            "maxReplicas": 10,
            "metrics": [{"type": "Resource", "resource": cpu}],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 600}},
        },
    }


def workload(kind: Kind) -> list[Object]:
    """A role's base."""
    name = str(kind.role)
    container, volumes = _container(kind)
    objects = [
        stateful(name, grace_seconds(kind), [container], volumes),
        headless(name, list(kind.ports)),
        budget(name),
    ]
    return [*objects, scaler(name)] if kind.scales else objects


def edge() -> list[Object]:
    """Envoy, and beside it the command that keeps its files in step with the published topology."""
    name = str(Role.EDGE)
    mounts, volumes = _mounts(Kind(Role.EDGE, "operations", (), "50m", "128Mi", "512Mi"))
    volumes.append({"name": "public", "secret": {"secretName": "public-tls", "defaultMode": 0o440}})
    mounts.append({"name": "public", "mountPath": f"{RUN}/public", "readOnly": True})
    configure = {
        "name": "configure",
        "image": "domicile-operations",
        "restartPolicy": "Always",  # a sidecar: ready before Envoy starts, and ended after it
        "command": ["domicile", "edge", "envoy", "--watch", f"{STATE}/edge", "--listen", f"0.0.0.0:{EDGE_PORT}"],
        "args": ["--public-certificate", f"{RUN}/public/tls.crt", "--public-key", f"{RUN}/public/tls.key"],
        "envFrom": [{"configMapRef": {"name": f"{name}-{SETTINGS}"}}],
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "startupProbe": {
            "exec": {"command": ["test", "-f", f"{STATE}/edge/envoy.json"]},
            "periodSeconds": 2,
            "failureThreshold": 60,
        },
        "securityContext": SAFE,
        "volumeMounts": mounts,
    }
    envoy = {
        "name": "envoy",
        "image": "domicile-envoy",
        "command": ["envoy", "-c", f"{STATE}/edge/envoy.json", "--log-level", "warning"],
        "ports": [{"name": "public", "containerPort": EDGE_PORT}],
        "resources": {"requests": {"cpu": "1", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        "readinessProbe": {"tcpSocket": {"port": "public"}, "periodSeconds": 5},
        "livenessProbe": {"tcpSocket": {"port": "public"}, "periodSeconds": 10, "failureThreshold": 6},
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS + DRAIN_SECONDS}}},
        "securityContext": SAFE,
        "volumeMounts": mounts,
    }
    grace = PRE_STOP_SECONDS + DRAIN_SECONDS + MARGIN_SECONDS
    work = stateful(name, grace, [envoy], volumes, initContainers=[configure])
    return [work, headless(name, ["public"]), budget(name), scaler(name)]


_COLLECTOR: Final[Object] = {
    "receivers": {
        "otlp": {
            "protocols": {
                "http": {
                    "endpoint": "0.0.0.0:4318",
                    "tls": {"cert_file": f"{RUN}/identity/tls.crt", "key_file": f"{RUN}/identity/tls.key"},
                }
            }
        }
    },
    "processors": {"memory_limiter": {"check_interval": "1s", "limit_mib": 400}, "batch": {}},
    "exporters": {"otlphttp": {"endpoint": "${env:OTEL_EXPORTER_OTLP_ENDPOINT}"}},
    "service": {
        "pipelines": {
            "traces": {
                "receivers": ["otlp"],
                "processors": ["memory_limiter", "batch"],
                "exporters": ["otlphttp"],
            }
        }
    },
}


def collector(rendered: str) -> list[Object]:
    """A jurisdiction's collector of traces. ``rendered``: its configuration as text, see ``collector_settings``."""
    name = "collector"
    labels = {"app.kubernetes.io/name": name, ROLE: name}
    volumes: list[Object] = [
        {"name": "identity", "secret": {"secretName": f"{name}-tls", "defaultMode": 0o440}},
        {"name": "configuration", "configMap": {"name": f"{name}-{SETTINGS}"}},
    ]
    container = {
        "name": name,
        "image": "domicile-collector",
        "args": ["--config", f"{RUN}/configuration/collector.yaml"],
        "env": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "https://unset.invalid"}],
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}},
        "readinessProbe": {"tcpSocket": {"port": 4318}, "periodSeconds": 10},
        "livenessProbe": {"tcpSocket": {"port": 4318}, "periodSeconds": 30},
        "securityContext": SAFE,
        "volumeMounts": [
            {"name": each["name"], "mountPath": f"{RUN}/{each['name']}", "readOnly": True} for each in volumes
        ],
    }
    work = stateful(name, PRE_STOP_SECONDS + MARGIN_SECONDS, [container], volumes)
    spec: Object = {key: work["spec"][key] for key in ("replicas", "selector", "template")} | {"replicas": 2}
    deployment = work | {"kind": "Deployment", "spec": spec}
    settings = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{name}-{SETTINGS}", "labels": labels},
        "data": {"collector.yaml": rendered},
    }
    return [deployment, headless(name, ["tls"]), budget(name), settings]


def collector_settings() -> Object:
    return _COLLECTOR
