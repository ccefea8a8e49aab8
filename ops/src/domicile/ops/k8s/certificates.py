"""Certificates by cert-manager: one issuer for each jurisdiction, and for each instance the one name that it is.

An issuer is the jurisdiction's authority: a ClusterIssuer whose key lies in cert-manager's own namespace, and which the
admission policies let only this jurisdiction's namespaces ask, for names of their own.
"""

from __future__ import annotations

from typing import Final

from domicile.model.access import GLOBAL, Identity, Role
from domicile.ops.k8s.names import COLLECTOR, DATABASE, Instance, Object, World, labels_of

REPLICATION_USER: Final = "streaming_replica"
"""CloudNativePG's own, known by a certificate's common name."""


def issuer_name(world: World, jurisdiction: str) -> str:
    return f"{world.deployment}-{jurisdiction}"


def issuer(world: World, jurisdiction: str) -> Object:
    name = issuer_name(world, jurisdiction)
    return {
        "apiVersion": "cert-manager.io/v1",
        "kind": "ClusterIssuer",
        "metadata": {"name": name, "labels": labels_of(world, jurisdiction, jurisdiction)},
        "spec": {"ca": {"secretName": f"{name}-authority"}},
    }


def _certificate(
    world: World,
    jurisdiction: str,
    place: str,
    name: str,
    common_name: str,
    hosts: list[str],
    identity: Identity | None,
    signer: str | None = None,
) -> Object:
    spec: Object = {
        "secretName": name,
        "commonName": common_name,
        "issuerRef": {"group": "cert-manager.io", "kind": "ClusterIssuer", "name": issuer_name(world, jurisdiction)},
        "duration": "2160h",
        "renewBefore": "720h",
        "privateKey": {"algorithm": "ECDSA", "size": 256, "encoding": "PKCS8", "rotationPolicy": "Always"},
        "usages": ["digital signature", "server auth", "client auth"],
        "subject": {"organizations": [world.deployment]},
    }
    if signer is not None:
        spec["issuerRef"]["name"] = signer
    if hosts:
        spec["dnsNames"] = hosts
    if identity is not None:
        spec["uris"] = [identity.uri]
    return {
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "metadata": {"name": name, "labels": labels_of(world, jurisdiction, place)},
        "spec": spec,
    }


def _of_database(world: World, instance: Instance) -> list[Object]:
    place, jurisdiction = instance.place, instance.jurisdiction
    cell = world.manifest.cells.get(place)
    hosts = [f"{DATABASE}-{kind}" for kind in ("rw", "r", "ro")]
    hosts += [f"{host}.{world.namespace(place)}{end}" for host in hosts for end in ("", ".svc")]
    hosts += [world.host(f"{DATABASE}-rw", place)]
    hosts += [world.host(f"storage-{zone}", place) for zone in (cell.zones if cell is not None else ())]
    identity = instance.identity(world.deployment)
    server = _certificate(world, jurisdiction, place, f"{DATABASE}-server-tls", instance.common_name, hosts, identity)
    replication = _certificate(world, jurisdiction, place, f"{DATABASE}-replication-tls", REPLICATION_USER, [], None)
    return [server, replication]


def certificates(world: World, place: str, jurisdiction: str) -> list[Object]:
    """All of a namespace."""
    found: list[Object] = []
    for instance in (each for each in world.instances if each.place == place):
        if instance.role is Role.STORAGE:
            found += _of_database(world, instance)
            continue
        identity = instance.identity(world.deployment)
        hosts = [world.host(instance.name, place), identity.dns_name]
        name = f"{instance.name}-tls"
        found.append(_certificate(world, jurisdiction, place, name, instance.common_name, hosts, identity))
        if instance.role is Role.ROUTER:
            public = f"router-public-{instance.zone}-tls"
            hosts = [world.host(instance.name, place), public_name(world, jurisdiction)]
            found.append(_certificate(world, jurisdiction, place, public, f"public.{place}", hosts, None))
    if place != jurisdiction or jurisdiction == GLOBAL:
        return found
    store = world.section.jurisdictions[jurisdiction]
    if world.manifest.jurisdictions[jurisdiction].collector is not None:
        hosts = [world.host(COLLECTOR, place)]
        found.append(_certificate(world, jurisdiction, place, f"{COLLECTOR}-tls", f"{COLLECTOR}.{place}", hosts, None))
    if world.of(place, Role.EDGE):
        host = public_name(world, jurisdiction)
        found.append(
            _certificate(world, jurisdiction, place, "public-tls", host, [host], None, signer=store.public_issuer)
        )
    return found


def public_name(world: World, jurisdiction: str) -> str:
    """The public host without its port."""
    return world.manifest.jurisdictions[jurisdiction].public_host.partition(":")[0]
