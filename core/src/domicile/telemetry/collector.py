"""Spans on their way to a collector, which is to lie at home: no redirect is followed, and a name counts only where it
resolves to an address that the manifest admits.

Not part of the facade: only processes that send spans load the exporter.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import SpanExporter
from requests.adapters import HTTPAdapter
from urllib3 import HTTPSConnectionPool
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from domicile.telemetry.logs import warn
from domicile.telemetry.metrics import REFUSALS

Admits = Callable[[str], bool]
"""Whether an IP address may be connected to."""


def _held(admits: Admits) -> type[HTTPSConnectionPool]:
    class Connection(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            found = socket.getaddrinfo(self.host, self.port or 443, type=socket.SOCK_STREAM)
            admitted = [str(place[0]) for *_, place in found if admits(str(place[0]))]
            if not admitted:
                REFUSALS.labels("address-outside").inc()
                warn("address-outside")
                raise NewConnectionError(self, "the collector has no address where it may be")
            failure: Exception | None = None
            for address in admitted:
                self._dns_host = address  # the name that its certificate is for stays
                try:
                    return super()._new_conn()
                except (NewConnectionError, ConnectTimeoutError) as error:
                    failure = error
            assert failure is not None
            raise failure

    class Pool(HTTPSConnectionPool):
        ConnectionCls = Connection

    return Pool


class _Adapter(HTTPAdapter):
    def __init__(self, admits: Admits) -> None:
        self._pool = _held(admits)
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {"https": self._pool}


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        if resp.is_redirect:
            warn("collector-redirects", status=resp.status_code)


def otlp_exporter(collector: str, admits: Admits, authorities: Path | None = None) -> SpanExporter:
    """To a collector's ``/v1/traces`` by OTLP over https, with no proxy of the environment.

    ``authorities``: a file of those to trust for it (PEM); the system's without it.
    """
    session = _Session()
    session.trust_env = False
    session.adapters.clear()
    session.mount("https://", _Adapter(admits))
    return OTLPSpanExporter(
        endpoint=f"{collector.rstrip('/')}/v1/traces",
        certificate_file=None if authorities is None else str(authorities),
        session=session,
        headers={},
    )
