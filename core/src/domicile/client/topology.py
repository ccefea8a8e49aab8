"""The topology as a process sees it: signed by an operator, fetched once, kept on disk.

A process that starts while the directory is gone starts from its disk. A lower revision than the one on disk
is refused: nobody can play an old topology back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from domicile.client.directory import DirectoryClient
from domicile.identity import verify_topology, write_private
from domicile.model.errors import InvalidInput, NotFound, TokenInvalid, Unavailable
from domicile.model.manifest import Manifest, parse_manifest
from domicile.model.wire import TopologyDocument
from domicile.telemetry import log, warn

WAIT_SECONDS: Final = 0.2


class Topology:
    """Loads the current manifest for one process."""

    def __init__(self, directory: DirectoryClient, deployment: str, operators: list[bytes], cache: Path) -> None:
        self._directory = directory
        self._deployment = deployment
        self._operators = operators
        self._cache = cache
        self._said: tuple[str, int] | None = None

    def _say(self, tell: Callable[..., None], event: str, revision: int) -> None:
        """Once, however often it is loaded."""
        if self._said != (event, revision):
            self._said = (event, revision)
            tell(event, revision=revision)

    def _read(self, document: TopologyDocument) -> Manifest:
        topology = verify_topology(document, self._deployment, self._operators)
        return parse_manifest(topology, source=f"topology revision {document.revision}")

    def cached(self) -> TopologyDocument | None:
        try:
            return TopologyDocument.model_validate_json(self._cache.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    async def load(self, *, patience: float = 20.0) -> Manifest:
        """From the directory, else from disk. Waits up to ``patience`` seconds for a first revision.

        Raises Unavailable where neither has one, TokenInvalid for one that no known operator signed, and
        InvalidInput for a revision below the one on disk.
        """
        cached = self.cached()
        deadline = asyncio.get_running_loop().time() + patience
        while True:
            try:
                document = await self._directory.topology()
                break
            except (Unavailable, NotFound) as error:
                if isinstance(error, Unavailable) and cached is not None:
                    self._say(warn, "topology-from-disk", cached.revision)
                    return self._read(cached)
                if asyncio.get_running_loop().time() > deadline:
                    raise Unavailable(
                        "no topology to start from",
                        where="directory",
                        remedy="publish one with `domicile apply`",
                    ) from None
                await asyncio.sleep(WAIT_SECONDS)
        manifest = self._read(document)
        if cached is not None and self._trusted(cached) and cached.revision > document.revision:
            raise InvalidInput(
                f"the directory offers topology revision {document.revision}, below {cached.revision} seen before",
                where=str(self._cache),
                remedy="publish a newer revision with `domicile apply`",
            )
        if document != cached:
            write_private(self._cache, document.model_dump_json().encode())
        self._say(log, "topology-loaded", document.revision)
        return manifest

    def _trusted(self, document: TopologyDocument) -> bool:
        try:
            verify_topology(document, self._deployment, self._operators)
        except TokenInvalid:
            return False
        return True
