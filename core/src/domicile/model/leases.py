"""Where the clusters of a jurisdiction keep who leads: the store of Patroni (its manual, "Patroni configuration").

Without one, each cluster keeps it among its own two nodes and witness, in Raft, which Patroni calls deprecated.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from domicile.model.addresses import AddressField, Network, literal
from domicile.model.errors import ManifestProblem
from domicile.model.rules import Strict

Namespace = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class Etcd(Strict):
    """Members of an etcd (3.4 or later), over mutual TLS: they trust the jurisdiction's authority and have its
    certificates."""

    hosts: list[AddressField] = Field(min_length=1, max_length=9)


class Kubernetes(Strict):
    """Patroni runs in pods of this namespace and keeps the lease in its Endpoints."""

    namespace: Namespace


class Lease(Strict):
    """One of them."""

    etcd: Etcd | None = None
    kubernetes: Kubernetes | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.etcd is None) == (self.kubernetes is None):
            raise ValueError("names one store: etcd or kubernetes")
        return self


def check_lease(path: str, lease: Lease | None, networks: Collection[Network]) -> Iterator[ManifestProblem]:
    """``networks``: those of the jurisdiction. Who holds the lease decides who serves it, so the store lies inside."""
    for position, address in enumerate(lease.etcd.hosts if lease is not None and lease.etcd is not None else ()):
        place = literal(address)
        if place is None or not any(place in network for network in networks):
            yield ManifestProblem(
                f"{path}.etcd.hosts[{position}]",
                f"{address} is no address in a zone of the jurisdiction",
                "an etcd that elects leaders lies where they do; a name could lead elsewhere",
            )
