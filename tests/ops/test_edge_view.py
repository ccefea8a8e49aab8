"""What an edge may know: nothing outside its jurisdiction, and everything there that it needs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from domicile_testing.manifests import valid
from hypothesis import given
from hypothesis import strategies as st

from domicile.identity import Credentials
from domicile.model import Identity, InvalidInput, Role, parse_manifest
from domicile.ops.edge.envoy import Recipe, dynamic, static
from domicile.ops.edge.envoy.headers import all_but
from domicile.ops.edge.equipment import Equipment
from domicile.ops.edge.view import View, view_of

OWN = Credentials(Path("/own/cert.pem"), Path("/own/key.pem"), Path("/own/authorities"))
BROUGHT = Equipment("127.0.0.1:8443", None, OWN)


def seen(data: dict[str, Any], jurisdiction: str = "eu", zone: str = "fra", role: Role = Role.EDGE) -> View:
    return view_of(parse_manifest(data), Identity("acme", jurisdiction, role, zone))


def places(data: dict[str, Any], jurisdiction: str) -> set[str]:
    """Every address of a jurisdiction's cells and routers."""
    cells = [cell for cell in data["cells"].values() if cell["jurisdiction"] == jurisdiction]
    found = {zone[part] for cell in cells for zone in cell["zones"].values() for part in ("app", "gateway", "storage")}
    zone = {"eu": "fra", "us": "iad"}[jurisdiction]
    return found | {data["routers"][zone][part] for part in ("public", "internal")}


@pytest.mark.parametrize(("home", "abroad"), [("eu", "us"), ("us", "eu")])
@pytest.mark.parametrize("asks", [False, True])
def test_nothing_of_another_jurisdiction_can_be_written_down(home: str, abroad: str, asks: bool) -> None:
    data = valid()
    view = seen(data, home, {"eu": "fra", "us": "iad"}[home])
    files = dynamic(view, BROUGHT, Path("/edge"), Recipe(asks=asks))
    texts = [static(view, BROUGHT, Recipe(asks=asks)), files.listeners, files.routes, json.dumps(dict(files.clusters))]
    every: set[str] = set()
    for text in [*texts, *files.endpoints.values()]:
        pairs = re.findall(r'"address": "([^"]+)",\s+"port_value": (\d+)', text)
        addresses = {f"{host}:{port}" for host, port in pairs}
        every |= addresses
        assert not addresses & places(data, abroad)
        assert f"{abroad}-1" not in text
        assert f"authorities/{abroad}.pem" not in text
    assert every & places(data, home)
    assert {cell.name.partition("-")[0] for cell in view.cells} == {home}


def test_the_nearest_zone_and_router_come_first() -> None:
    assert [zone.name for zone in seen(valid()).cells[0].zones] == ["fra", "par"]
    assert [zone.name for zone in seen(valid(), zone="par").cells[0].zones] == ["par", "fra"]
    data = valid()
    data["routers"]["par"] = data["routers"]["fra"] | {
        "country": "FR", "public": "127.10.2.1:1", "internal": "127.10.2.1:2"
    }  # fmt: skip
    assert [router.zone for router in seen(data, zone="par").routers] == ["par", "fra"]


def test_a_closed_cell_is_left_to_the_routers_and_a_draining_one_is_not() -> None:
    data = valid()
    data["cells"]["eu-1"]["state"], data["cells"]["eu-2"]["state"] = "closed", "draining"
    assert [cell.name for cell in seen(data).cells] == ["eu-2"]


def test_rules_say_by_what_an_edge_may_route() -> None:
    data = valid()
    data["routers"]["fra"]["rules"] = [
        {"path": "/open/mine", "class": "pinned"},
        {"path": "/open/*", "class": "unpinned"},
        {"by": "header", "name": "X-User", "networks": ["10.0.0.0/8"]},
        {"by": "path", "pattern": "/t/{subject}/*"},
        {"by": "host", "pattern": "{subject}.acme.example"},
    ]
    data["routers"]["fra"]["rules_next"] = {"rules": [{"by": "header", "name": "X-Next", "networks": ["10.0.0.0/8"]}]}
    view = seen(data)
    assert (view.by_token, view.untrusted) == (False, ("x-next", "x-user"))
    assert [(rule.path, rule.kind) for rule in view.classes] == [("/open/mine", "pinned"), ("/open/*", "unpinned")]
    assert re.fullmatch(view.named_paths[0], "/t/alice/x")
    assert not re.fullmatch(view.named_paths[0], "/t/alice")
    assert re.fullmatch(view.named_hosts[0], "alice.acme.example:443")
    table = static(view, BROUGHT)
    assert "cluster_header" not in table, "no rule believes a token"
    assert '"remove": "x-user"' in table


@pytest.mark.parametrize(
    ("jurisdiction", "role", "change"),
    [("eu", Role.ROUTER, None), ("fr", Role.EDGE, None), ("eu", Role.EDGE, "no router")],
)
def test_who_is_no_edge_here_gets_nothing(jurisdiction: str, role: Role, change: str | None) -> None:
    data = valid()
    if change:
        del data["routers"]["fra"]
    with pytest.raises(InvalidInput):
        seen(data, jurisdiction, role=role)


@pytest.mark.parametrize("listen", ["0.0.0.0:8443", "10.0.0.1:8443", "edge.example:8443"])
def test_clients_are_not_listened_to_in_clear(listen: str) -> None:
    with pytest.raises(InvalidInput):
        Equipment(listen, None, OWN)


@given(st.text(alphabet="tokenx-", max_size=8))
def test_all_names_of_ours_are_stripped_but_the_tokens(rest: str) -> None:
    matched = re.fullmatch(all_but("domicile-", "domicile-token"), f"domicile-{rest}") is not None
    assert matched is (rest != "token")
