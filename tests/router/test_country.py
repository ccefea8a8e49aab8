"""Whose address a request comes from, and in which country that lies."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from domicile_testing.routing import World

from domicile.model import InvalidInput
from domicile.router.country import Countries, client_address
from domicile.router.settings import RouterSettings

TRUSTED = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("8.8.8.8", [], "8.8.8.8"),
        ("8.8.8.8", ["193.99.144.80"], "8.8.8.8"),  # not from a trusted peer: its own claim
        ("10.0.0.1", ["193.99.144.80"], "193.99.144.80"),
        ("10.0.0.1", ["1.1.1.1, 193.99.144.80"], "193.99.144.80"),  # what stands left of it is anybody's
        ("10.0.0.1", ["1.1.1.1, 193.99.144.80, 10.2.2.2"], "193.99.144.80"),
        ("10.0.0.1", ["1.1.1.1", "193.99.144.80"], "193.99.144.80"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.7"], "10.0.0.7"),
        ("10.0.0.1", ["193.99.144.80:4711"], "193.99.144.80"),
        ("10.0.0.1", ["[2a02:2e0::1]:4711"], "2a02:2e0::1"),
        ("10.0.0.1", ["2a02:2e0::1"], "2a02:2e0::1"),
        ("::ffff:10.0.0.1", ["193.99.144.80"], "193.99.144.80"),
        ("fd00::1", ["193.99.144.80"], "193.99.144.80"),
        ("10.0.0.1", ["193.99.144.80, unknown"], None),
        ("10.0.0.1", [""], None),
    ],
)
def test_the_client_is_the_rightmost_hop_that_nobody_vouches_for(
    peer: str, forwarded: list[str], client: str | None
) -> None:
    assert client_address(peer, forwarded, TRUSTED) == (ip_address(client) if client else None)


def test_the_shipped_database_knows_countries() -> None:
    countries = Countries(RouterSettings.model_fields["countries"].get_default(call_default_factory=True), [])
    try:
        assert countries.observe("193.99.144.80", []) == "DE"
        assert countries.observe("2001:4860:4860::8888", []) == "US"
        assert countries.observe("127.0.0.1", []) is None
        assert countries.observe("not an address", []) is None
    finally:
        countries.close()


@pytest.mark.parametrize("content", [None, b"no database"])
async def test_a_database_that_is_none_is_refused_at_start(world: World, tmp_path: Path, content: bytes | None) -> None:
    database = tmp_path / "mine.mmdb"
    if content is not None:
        database.write_bytes(content)
    with pytest.raises(InvalidInput, match="DOMICILE_COUNTRIES"):
        async with world.router(countries=database):
            pass
