"""What one router process is told: its listeners, its country database and its limits. Never topology."""

from __future__ import annotations

import ssl
from importlib.resources import files
from pathlib import Path

from pydantic import Field

from domicile.model import InvalidInput
from domicile.model.manifest import AddressField
from domicile.router.breaker import MAX_WAITING
from domicile.router.shedding import PLACES
from domicile.router.waiting import SECONDS
from domicile.service import ProcessSettings


def _shipped_countries() -> Path:
    return Path(str(files("domicile.router").joinpath("data/country.mmdb")))


class RouterSettings(ProcessSettings):
    """``bind`` is the internal listener: other routers' hairpins, and operators' health checks."""

    public_bind: AddressField = Field(description="host:port of the listener that clients reach")
    public_certificate: Path = Field(description="the public listener's certificate chain (PEM)")
    public_key: Path = Field(description="its private key (PEM)")
    countries: Path = Field(
        default_factory=_shipped_countries, description="MaxMind country database; the shipped one is public domain"
    )
    identity_authorities: Path | None = Field(
        default=None, description="authorities (PEM) of the identity provider's address; the system's without it"
    )
    max_body: int = Field(default=64 << 20, ge=0, description="bytes that one request's body may have")
    head_seconds: float = Field(default=10.0, gt=0, le=300, description="for a request's whole head to come in")
    keepalive_seconds: float = Field(
        default=75.0, gt=0, le=3600, description="how long a client's connection may wait for its next request"
    )
    idle_seconds: float = Field(
        default=60.0, gt=0, le=3600, description="how long either side may be silent in the middle of a message"
    )
    answer_seconds: float | None = Field(
        default=None, gt=0, le=3600, description="for the head of the home's answer; idle_seconds where not given"
    )
    relay_seconds: float = Field(
        default=300.0, gt=0, le=86400, description="how long a WebSocket may be silent in both directions"
    )
    connect_seconds: float = Field(default=2.0, gt=0, le=60, description="to connect to one zone before the next")
    connections: int = Field(default=256, ge=1, description="connections to one upstream address, of each worker")
    clients: int = Field(default=10_000, ge=1, description="clients' connections at a time, of each worker")
    workers: int = Field(default=1, ge=1, le=64, description="processes that share the listeners")
    public_plain: bool = Field(
        default=False, description="no TLS on the public listener, which has a loopback address then: for measurements"
    )
    waiting: int = Field(
        default=MAX_WAITING, ge=1, description="requests of one cell that may wait for an answer; more get 503"
    )
    places: int = Field(
        default=PLACES,
        ge=1,
        description="requests that may wait for an answer; the last places are for known subjects",
    )
    move_seconds: float = Field(
        default=SECONDS, ge=0, le=60, description="how long a write may wait for its subject's move to end"
    )
    trace_share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="share of requests traced, if the jurisdiction has a collector",
    )
    collector_authorities: Path | None = Field(
        default=None, description="authorities (PEM) of the collector's address; the system's without it"
    )
    key_days: float = Field(
        default=30.0, ge=0, le=3650, description="days for which a key signs tokens before the next does; 0: for good"
    )
    replica_bytes: int = Field(
        default=4 << 30, ge=1 << 20, description="upper bound of the pin replica's file, which grows as needed"
    )

    def identity_context(self) -> ssl.SSLContext:
        """To read the application's keys by. Raises InvalidInput for a file that holds no authority."""
        try:
            return ssl.create_default_context(cafile=self.identity_authorities)
        except OSError:
            raise InvalidInput(
                "holds no authority", where=str(self.identity_authorities), remedy="see DOMICILE_IDENTITY_AUTHORITIES"
            ) from None
