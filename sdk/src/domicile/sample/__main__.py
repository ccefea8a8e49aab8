"""``python -m domicile.sample``: the sample application of one cell, for the routers of its jurisdiction."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import Field

from domicile.identity import Signer
from domicile.model import GLOBAL, InvalidInput, Role
from domicile.sample.app import Sample
from domicile.sample.sessions import Sessions
from domicile.sample.support import SupportDesk
from domicile.sdk import Residency
from domicile.service import ProcessSettings, Service, load_settings, run


class SampleSettings(ProcessSettings):
    """``session_key``: the cell's private key for sessions; without it, ``session.key`` in ``state``."""

    session_key: Path | None = Field(default=None, description="Ed25519 private key (PEM) that signs sessions")


@asynccontextmanager
async def serve(settings: SampleSettings) -> AsyncIterator[None]:
    """The application, listening inside the context. Raises what ``Residency.connect`` raises."""
    async with Residency.connect(settings) as residency:
        if residency.manifest.identity is None:
            raise InvalidInput("does not say who the application's users are", where="manifest: identity")
        signer = Signer.load_or_create(settings.session_key or settings.state / "session.key")
        service = Service(settings, residency.ready)
        desk = SupportDesk.load_or_create(settings.state / "support.key")
        Sample(residency, Sessions(signer, residency.manifest.identity), desk).routes(service)
        # operators of the directory's domain ask for health; the guard lets nobody else in from there
        context = service.internal_context([Role.ROUTER, Role.EDGE], [residency.jurisdiction, GLOBAL])
        async with service.listen(settings.address(), context):
            yield


def main() -> None:
    """Serve until SIGTERM; settings from the environment."""
    settings = load_settings(SampleSettings)
    run(settings, lambda: serve(settings))


if __name__ == "__main__":
    main()
