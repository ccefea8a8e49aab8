"""What the cluster itself refuses: ValidatingAdmissionPolicies, and for each jurisdiction what it may use.

The policies are the same everywhere; their parameters (a ConfigMap for each jurisdiction, in a namespace of their own)
say which regions, classes, stores, buckets and collectors are its. A namespace is bound by its jurisdiction's label;
without parameters everything in it is refused. Expressions are CEL as Kubernetes has it (1.30), with optional fields.
"""

from __future__ import annotations

from typing import Any, Final

from domicile.model.access import GLOBAL
from domicile.ops.k8s.certificates import REPLICATION_USER, issuer_name, public_name
from domicile.ops.k8s.databases import PLUGIN
from domicile.ops.k8s.names import CELL, JURISDICTION, REGION_LABEL, Object, World

NAMESPACE: Final = "admission"
VOLUMES: Final = ("configMap", "secret", "emptyDir", "projected", "downwardAPI", "persistentVolumeClaim")
_TELEMETRY: Final = "^OTEL_EXPORTER_OTLP_.*ENDPOINT$"
_DIGEST: Final = "@sha256:[0-9a-f]{64}$"
_TAGGED: Final = "runs an image that is not named by digest"
_CLOUD_VOLUMES: Final = (
    "hostPath", "ephemeral", "csi", "nfs", "iscsi", "fc", "rbd", "cephfs", "glusterfs", "azureFile", "azureDisk",
    "awsElasticBlockStore", "gcePersistentDisk", "cinder", "flexVolume", "image", "portworxVolume", "scaleIO",
    "storageos", "quobyte", "vsphereVolume", "photonPersistentDisk", "gitRepo", "flocker",
)  # fmt: skip
"""Every kind of volume of a pod that is not in VOLUMES."""

Rule = tuple[str, str]
"""An expression that must hold, and what is said where it doesn't."""


def _list(name: str) -> str:
    return f"params.data.{name}.split(',')"


def _labelled(at: str) -> list[Rule]:
    return [
        (
            f"{at}.?metadata.?labels[?'{JURISDICTION}'].orValue('') == params.data.jurisdiction",
            f"carries no label {JURISDICTION} of its namespace's jurisdiction",
        ),
        (
            f"{at}.?metadata.?labels[?'{CELL}'].orValue('') == namespaceObject.metadata.?labels[?'{CELL}'].orValue('')",
            f"carries another {CELL} than its namespace",
        ),
    ]


def _placed(affinity: str) -> Rule:
    """Terms are alternatives, so each of them has to hold the regions."""
    terms = f"{affinity}.?requiredDuringSchedulingIgnoredDuringExecution.?nodeSelectorTerms.orValue([])"
    return (
        f"size({terms}) > 0 && {terms}.all(term, term.?matchExpressions.orValue([]).exists(each,"
        f" each.key == '{REGION_LABEL}' && each.operator == 'In'"
        f" && each.values.all(region, region in {_list('regions')})))",
        "has no required node affinity to the jurisdiction's regions alone",
    )


_WORKLOAD: Final = {
    "pods": "object",
    "templates": "object.spec.template",
    "schedules": "object.spec.jobTemplate.spec.template",
}
_KINDS: Final[dict[str, list[tuple[str, str, list[str]]]]] = {
    "pods": [("", "v1", ["pods", "pods/ephemeralcontainers"])],
    "templates": [
        ("apps", "v1", ["deployments", "statefulsets", "daemonsets", "replicasets"]),
        ("batch", "v1", ["jobs"]),
        ("", "v1", ["replicationcontrollers"]),
    ],
    "schedules": [("batch", "v1", ["cronjobs"])],
}


def _workloads(at: str) -> list[Rule]:
    containers = (
        f"({at}.spec.containers + {at}.spec.?initContainers.orValue([]) + {at}.spec.?ephemeralContainers.orValue([]))"
    )
    node = f"!has({at}.spec.nodeName)"
    volumes = f"{at}.spec.?volumes.orValue([])"
    forbidden = " || ".join(f"has(volume.{kind})" for kind in _CLOUD_VOLUMES)
    return [
        *_labelled(at),
        _placed(f"{at}.?spec.?affinity.?nodeAffinity"),
        # a pod that was scheduled keeps its node, and is changed with it
        (
            f"request.operation == 'UPDATE' || {node}" if at == "object" else node,
            "names its node, and no scheduler sees it",
        ),
        (f"!{at}.spec.?hostNetwork.orValue(false)", "is on its node's network, which no NetworkPolicy holds"),
        (f"{volumes}.all(volume, !({forbidden}))", f"has a volume that is none of {', '.join(VOLUMES)}"),
        (
            f"{containers}.all(each, each.?image.orValue('').matches('{_DIGEST}'))",
            _TAGGED,
        ),
        (
            f"{containers}.all(each, each.?env.orValue([]).all(variable, !variable.name.matches('{_TELEMETRY}')"
            f" || variable.?value.orValue('') in {_list('collectors')}))",
            "sends telemetry to a collector that is not the jurisdiction's",
        ),
    ]


_CLAIMS: Final[list[Rule]] = [
    (
        f"object.spec.?storageClassName.orValue('') in {_list('storage_classes')}",
        "is of a storage class that is not the jurisdiction's",
    ),
    (
        "request.operation == 'UPDATE' || !has(object.spec.volumeName)",
        "names its volume, which may lie anywhere",
    ),
]
_DATABASES: Final[list[Rule]] = [
    *_labelled("object"),
    _placed("object.spec.?affinity.?nodeAffinity"),
    (
        f"object.spec.?storage.?storageClass.orValue('') in {_list('storage_classes')}"
        " && (!has(object.spec.walStorage)"
        f" || object.spec.walStorage.?storageClass.orValue('') in {_list('storage_classes')})"
        " && object.spec.?tablespaces.orValue([]).all(each,"
        f" each.storage.?storageClass.orValue('') in {_list('storage_classes')})",
        "keeps data in a storage class that is not the jurisdiction's",
    ),
    ("!has(object.spec.backup)", "backs up past the ObjectStores that are looked at"),
    (
        f"object.spec.?plugins.orValue([]).all(each, each.name == '{PLUGIN}')",
        f"has a plugin that is not {PLUGIN}",
    ),
    (
        "object.spec.?externalClusters.orValue([]).all(each,"
        " !has(each.connectionParameters) && !has(each.barmanObjectStore))",
        "copies from, or follows, a server elsewhere",
    ),
    (
        f"!has(object.spec.imageName) || object.spec.imageName.matches('{_DIGEST}')",
        _TAGGED,
    ),
]
_CATALOGS: Final[list[Rule]] = [
    (f"object.spec.images.all(each, each.image.matches('{_DIGEST}'))", "names an image that is not one by digest"),
]
_BACKUPS: Final[list[Rule]] = [
    (
        f"{_list('buckets')}.exists(bucket,"
        " object.spec.configuration.?destinationPath.orValue('').startsWith(bucket + '/'))"
        " && !object.spec.configuration.?destinationPath.orValue('').contains('..')",
        "puts backups into a bucket that is not the jurisdiction's",
    ),
    (
        f"object.spec.configuration.?endpointURL.orValue('') in {_list('endpoints')}",
        "puts backups at an endpoint that is not the jurisdiction's",
    ),
]
_SECRETS: Final[list[Rule]] = [
    (
        "object.spec.?secretStoreRef.?kind.orValue('') == 'ClusterSecretStore'"
        f" && object.spec.?secretStoreRef.?name.orValue('') in {_list('secret_stores')}",
        "takes secrets from a store that is not the jurisdiction's",
    ),
    (
        "object.spec.?data.orValue([]).all(each, !has(each.sourceRef))"
        " && object.spec.?dataFrom.orValue([]).all(each, !has(each.sourceRef))",
        "takes a secret past its store",
    ),
]
_STORES: Final[list[Rule]] = [("false", "a secret store of the namespace's own is looked at by nobody")]
_CERTIFICATES: Final[list[Rule]] = [
    (
        "object.spec.issuerRef.?kind.orValue('') == 'ClusterIssuer'"
        " && object.spec.issuerRef.name in [params.data.issuer, params.data.public_issuer]",
        "is asked of an issuer that is not the jurisdiction's",
    ),
    (
        "object.spec.?uris.orValue([]).all(uri, uri.startsWith(params.data.identity)"
        f" && (namespaceObject.metadata.?labels[?'{CELL}'].orValue('') == ''"
        " ? uri.matches('/(directory|router|edge|keys|storage)/[^./]+$')"
        f" : uri.matches('/(app|gateway|storage)/' + namespaceObject.metadata.labels['{CELL}'] + '[.][^./]+$')))",
        "names somebody of another jurisdiction or cell",
    ),
    (
        "object.spec.issuerRef.name == params.data.public_issuer"
        " ? object.spec.?uris.orValue([]) == [] && object.spec.?dnsNames.orValue([]) == [params.data.public_host]"
        f" : (object.spec.?commonName.orValue('') == '{REPLICATION_USER}' && object.spec.?uris.orValue([]) == [])"
        " || object.spec.?commonName.orValue('').endsWith('.' + (namespaceObject.metadata"
        f".?labels[?'{CELL}'].orValue(params.data.place)))",
        "goes by a common name that is another's",
    ),
    ("!has(object.spec.isCA) || !object.spec.isCA", "would sign others"),
    (
        "!has(object.spec.literalSubject) && !has(object.spec.otherNames) && !has(object.spec.emailAddresses)",
        "carries names that are not looked at",
    ),
]
_REQUESTS: Final[list[Rule]] = [
    (
        "request.userInfo.username == 'system:serviceaccount:cert-manager:cert-manager'",
        "asks for a certificate past the Certificates that are looked at",
    ),
]
_NAMESPACES: Final[list[Rule]] = [
    (
        f"[ '{JURISDICTION}', '{CELL}' ].all(key, oldObject.metadata.?labels[?key].orValue('') == ''"
        " || object.metadata.?labels[?key].orValue('') == oldObject.metadata.labels[key])",
        "a namespace does not change its jurisdiction or cell",
    ),
]


def _policy(world: World, name: str, kinds: list[tuple[str, str, list[str]]], rules: list[Rule]) -> Object:
    updates_only = name == "namespaces"
    operations = ["UPDATE"] if updates_only else ["CREATE", "UPDATE"]
    spec: Object = {
        "failurePolicy": "Fail",
        "matchConstraints": {
            "resourceRules": [
                {"apiGroups": [group], "apiVersions": [version], "operations": operations, "resources": resources}
                for group, version, resources in kinds
            ]
        },
        "validations": [
            {"expression": expression, "message": f"residency: {message}", "reason": "Forbidden"}
            for expression, message in rules
        ],
    }
    if not updates_only:
        spec["paramKind"] = {"apiVersion": "v1", "kind": "ConfigMap"}
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": f"{world.deployment}-{name}"},
        "spec": spec,
    }


def _table() -> dict[str, tuple[list[tuple[str, str, list[str]]], list[Rule]]]:
    workloads = {name: (kinds, _workloads(_WORKLOAD[name])) for name, kinds in _KINDS.items()}
    return workloads | {
        "claims": ([("", "v1", ["persistentvolumeclaims"])], _CLAIMS),
        "databases": ([("postgresql.cnpg.io", "v1", ["clusters"])], _DATABASES),
        "catalogs": ([("postgresql.cnpg.io", "v1", ["imagecatalogs"])], _CATALOGS),
        "backups": ([("barmancloud.cnpg.io", "v1", ["objectstores"])], _BACKUPS),
        "secrets": ([("external-secrets.io", "v1", ["externalsecrets"])], _SECRETS),
        "stores": ([("external-secrets.io", "v1", ["secretstores"])], _STORES),
        "certificates": ([("cert-manager.io", "v1", ["certificates"])], _CERTIFICATES),
        "requests": ([("cert-manager.io", "v1", ["certificaterequests"])], _REQUESTS),
        "namespaces": ([("", "v1", ["namespaces"])], _NAMESPACES),
    }


def policies(world: World) -> list[Object]:
    return [_policy(world, name, kinds, rules) for name, (kinds, rules) in _table().items()]


def parameters(world: World, jurisdiction: str) -> Object:
    """What a jurisdiction's namespaces may use; lists are separated by commas, since a ConfigMap holds text."""
    store = world.store(jurisdiction)
    collectors = []
    if jurisdiction != GLOBAL:
        place = world.section.jurisdictions[jurisdiction]
        own = world.manifest.jurisdictions[jurisdiction].collector
        collectors = [each for each in (own, place.telemetry) if each is not None]
    lists: dict[str, list[str]] = {
        "regions": world.regions(jurisdiction),
        "storage_classes": [store.storage_class],
        "secret_stores": [store.secret_store],
        "buckets": [store.bucket],
        "endpoints": [store.endpoint],
        "collectors": collectors,
    }
    public: dict[str, str] = {"public_issuer": "", "public_host": ""}
    if jurisdiction != GLOBAL:
        public["public_issuer"] = world.section.jurisdictions[jurisdiction].public_issuer
        public["public_host"] = public_name(world, jurisdiction)
    data: dict[str, str] = {
        "jurisdiction": jurisdiction,
        "place": "directory" if jurisdiction == GLOBAL else jurisdiction,
        "issuer": issuer_name(world, jurisdiction),
        "identity": f"spiffe://{world.deployment}/{jurisdiction}/",
        **public,
        **{name: ",".join(values) for name, values in lists.items()},
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": jurisdiction, "namespace": world.namespace(NAMESPACE)},
        "data": data,
    }


def bindings(world: World, jurisdiction: str) -> list[Object]:
    """Each policy for the namespaces of a jurisdiction."""
    return [
        _binding(
            f"{world.deployment}-{name}",
            f"{world.deployment}-{name}-{jurisdiction}",
            {
                "paramRef": {
                    "name": jurisdiction,
                    "namespace": world.namespace(NAMESPACE),
                    "parameterNotFoundAction": "Deny",
                },
                "matchResources": {"namespaceSelector": {"matchLabels": {JURISDICTION: jurisdiction}}},
            },
        )
        for name in _table()
        if name != "namespaces"
    ]


def namespaces_binding(world: World) -> Object:
    name = f"{world.deployment}-namespaces"
    return _binding(name, name, {})


def _binding(policy: str, name: str, more: dict[str, Any]) -> Object:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": policy, "validationActions": ["Deny"], **more},
    }
