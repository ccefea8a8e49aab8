"""What proxies are given by the bench, with real certificates."""

from __future__ import annotations

from pathlib import Path

import pytest
from domicile_testing import Trust, free_port
from loadtests.proxies import Edge, Pair

from domicile.identity import write_private
from domicile.model import GLOBAL, Role


@pytest.fixture(scope="session")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    return Trust.create(tmp_path_factory.mktemp("bench"), ("eu", GLOBAL))


@pytest.fixture(params=["plain", "tls"])
def edge(request: pytest.FixtureRequest, trust: Trust, tmp_path: Path) -> Edge:
    """What a proxy is given, in both settings."""
    cells = {cell: f"127.0.0.1:{free_port()}" for cell in ("eu-1", "eu-2")}
    own = trust.credentials("eu", Role.ROUTER, "edge")
    public = None
    if request.param == "tls":
        public = Pair(tmp_path / "public.pem", tmp_path / "public.key")
        certificate, key = trust.authorities["eu"].issue_public(["127.0.0.1"])
        write_private(public.certificate, certificate)
        write_private(public.key, key)
    return Edge(tmp_path, public, Pair(own.certificate, own.key), own.authorities / "eu.pem", cells)
