"""The topology that the directory itself goes by: what is published in its own database, and nothing else.

The signature is checked when a revision comes in and again when it is read, so that a database that was tampered
with places nobody. A parsed manifest is kept for as long as its revision is the current one.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple, Protocol

from domicile.identity import verify_topology
from domicile.model import InvalidInput, Manifest, TokenInvalid, Unavailable, parse_manifest
from domicile.model.wire import TopologyDocument
from domicile.telemetry import log, warn


class Version(NamedTuple):
    """Which publication: a restored database may publish another topology under the same revision."""

    revision: int
    published: datetime


class Source(Protocol):
    """Where the current topology is read, in one transaction."""

    async def topology_version(self) -> Version | None: ...

    async def topology(self) -> TopologyDocument | None: ...


class PublishedTopology:
    """Turns signed documents of ``deployment`` into manifests. ``operators``: their public keys (PEM)."""

    def __init__(self, deployment: str, operators: list[bytes]) -> None:
        self._deployment = deployment
        self._operators = operators
        self._current: tuple[Version, Manifest] | None = None

    def read(self, document: TopologyDocument) -> Manifest:
        """Raises TokenInvalid for a signature that is no operator's, InvalidInput for what does not load."""
        data = verify_topology(document, self._deployment, self._operators)
        manifest = parse_manifest(data, source=f"topology revision {document.revision}")
        if manifest.deployment != self._deployment:
            raise InvalidInput(f"a topology of {manifest.deployment}, published to {self._deployment}")
        return manifest

    async def current(self, source: Source) -> Manifest:
        """The manifest in force in ``source``'s transaction. Raises Unavailable where there is none to go by."""
        version = await source.topology_version()
        if self._current is not None and self._current[0] == version:
            return self._current[1]
        document = await source.topology()
        if version is None or document is None:
            raise Unavailable("no topology is published yet", remedy="publish one with `domicile apply`")
        try:
            manifest = self.read(document)
        except (TokenInvalid, InvalidInput) as error:
            warn("topology-refused", revision=document.revision, code=error.code)
            raise Unavailable(
                f"the published topology cannot be believed ({error.code})", remedy="publish it with `domicile apply`"
            ) from None
        self._current = (version, manifest)
        log("topology-loaded", revision=document.revision)
        return manifest
