"""What may be chosen of the recipe; its times and sizes are the router's own where it has them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from domicile.model.manifest import Address


class Health(StrEnum):
    """How a zone's application is asked whether it is ready."""

    HTTP = "http"
    GRPC = "grpc"


class Tuning(BaseModel):
    """All times in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    head_seconds: float = Field(default=10.0, gt=0, description="for a request's whole head to come in")
    keepalive_seconds: float = Field(default=75.0, gt=0, description="how long a client's connection may wait")
    idle_seconds: float = Field(default=60.0, gt=0, description="how long either side may be silent in a message")
    relay_seconds: float = Field(default=300.0, gt=0, description="how long a WebSocket may be silent")
    connect_seconds: float = Field(default=2.0, gt=0, description="to connect to one zone before the next")
    health_seconds: float = Field(default=2.0, gt=0, description="between two health checks of a zone")
    topology_seconds: float = Field(default=5.0, gt=0, description="between two looks at the published topology")
    settle_seconds: float = Field(
        default=10.0, ge=0, description="for a new cell to be known to Envoy and asked for its health before it is used"
    )
    linger_seconds: float = Field(
        default=300.0, ge=0, description="for what goes on with a cell that was taken away to come to its end"
    )
    keys_seconds: float = Field(
        default=60.0, gt=0, description="between two reads of the directory's keys; a new key is published long before"
    )
    clients: int = Field(default=10_000, gt=0, description="clients' connections at a time")
    replay_bytes: int = Field(default=64 * 1024, gt=0, description="of a body, kept to send it a second time")
    known_tokens: int = Field(default=20_000, gt=0, description="verified tokens that each worker remembers")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an operator may choose.

    ``asks``: a router for a decision on each request (``ext_authz``), in place of verifying tokens itself. ``health``:
    by what applications are asked. ``jwks``: a file of keys in place of the directory's; Envoy reads it once.
    ``admin``: of Envoy's own administration.
    """

    asks: bool = False
    health: Health = Health.HTTP
    jwks: Path | None = None
    admin: Address | None = None
    tuning: Tuning = field(default_factory=Tuning)

    @property
    def needs_directory(self) -> bool:
        return not self.asks and self.jwks is None
