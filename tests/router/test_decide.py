"""Every combination of the decision's inputs, against the rules and the jail."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from domicile_testing.routing import manifest_data, pin
from hypothesis import given, settings
from hypothesis import strategies as st

from domicile.model import (
    CrossBorderAccess,
    Identity,
    Manifest,
    Misdirected,
    Pin,
    PinState,
    Role,
    Unavailable,
    UnknownSubject,
    WrongJurisdiction,
    parse_manifest,
)
from domicile.router.atlas import Atlas
from domicile.router.decide import (
    Decision,
    Forward,
    Hairpin,
    Listener,
    Question,
    Redirect,
    Refuse,
    decide,
)
from domicile.router.endpoints import HomeEndpoints, PeerRouters, Upstream
from domicile.router.methods import SAFE_METHODS

DATA = manifest_data(Path())
EU = Identity("acme", "eu", Role.ROUTER, "par")
US = Identity("acme", "us", Role.ROUTER, "iad")
POLICIES = ("redirect", "hairpin", "refuse")
STATES = ("open", "draining", "closed")


def manifest(eu: str = "redirect", us: str = "redirect", **states: str) -> Manifest:
    data: dict[str, Any] = {**DATA, "cells": {name: dict(cell) for name, cell in DATA["cells"].items()}}
    data["jurisdictions"] = {
        name: {**place, "travellers": {"eu": eu, "us": us}[name]} for name, place in DATA["jurisdictions"].items()
    }
    for name, state in states.items():
        data["cells"][name.replace("_", "-")]["state"] = state
    return parse_manifest(data)


def ask(
    pin: Pin | None, *, path: str = "/notes", method: str = "GET", pinned: bool = True,
    listener: Listener = Listener.PUBLIC, turn: int = 0, down: frozenset[str] = frozenset(),
    world: Manifest | None = None, vantage: Identity = EU,
) -> Decision:  # fmt: skip
    question = Question(path, method, pinned, listener, pin, turn, down)
    return decide(question, Atlas(world or manifest(), vantage))


def refusal(decision: Decision) -> type[Exception]:
    assert isinstance(decision, Refuse)
    return type(decision.error)


def test_home_is_forwarded_to_the_nearest_zone_first() -> None:
    decision = ask(pin("a", "eu-1"))
    assert isinstance(decision, Forward)
    assert [upstream.zone for upstream in decision.home.upstreams] == ["par", "fra"]
    assert decision.pin == pin("a", "eu-1")


@pytest.mark.parametrize(
    ("path", "role"),
    [("/.domicile/v1/x", Role.GATEWAY), ("/notes", Role.APP), ("/.domicile", Role.APP), ("/x/.domicile/", Role.APP)],
)
def test_the_gateway_has_its_own_paths(path: str, role: Role) -> None:
    decision = ask(pin("a", "eu-1"), path=path)
    assert isinstance(decision, Forward)
    assert {upstream.role for upstream in decision.home.upstreams} == {role}


def test_policies_of_the_home_decide_for_travellers() -> None:
    subject = pin("a", "eu-1")
    redirect = ask(subject, vantage=US, world=manifest(eu="redirect", us="refuse"))
    assert redirect == Redirect("eu", "eu.acme.example", subject)
    hairpin = ask(subject, vantage=US, world=manifest(eu="hairpin", us="refuse"))
    assert isinstance(hairpin, Hairpin)
    assert [upstream.address for upstream in hairpin.routers.upstreams] == [manifest().routers["fra"].internal]
    assert refusal(ask(subject, vantage=US, world=manifest(eu="refuse", us="hairpin"))) is CrossBorderAccess


@pytest.mark.parametrize("policy", POLICIES)
def test_the_internal_listener_never_passes_on_abroad(policy: str) -> None:
    decision = ask(pin("a", "eu-1"), vantage=US, listener=Listener.INTERNAL, world=manifest(eu=policy))
    assert refusal(decision) is Misdirected


def test_hairpin_without_a_router_there_is_unavailable() -> None:
    data = {**DATA, "routers": {"iad": DATA["routers"]["iad"]}}
    data["jurisdictions"] = {name: {**place, "travellers": "hairpin"} for name, place in DATA["jurisdictions"].items()}
    assert refusal(ask(pin("a", "eu-1"), vantage=US, world=parse_manifest(data))) is Unavailable


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "MADEUP"])
def test_a_subject_being_moved_is_read_and_not_written(method: str) -> None:
    decision = ask(pin("a", "eu-1", state=PinState.MOVING), method=method)
    if method in SAFE_METHODS:
        assert isinstance(decision, Forward)
    else:
        assert refusal(decision) is Unavailable


def test_an_erased_subject_is_unknown() -> None:
    erased = pin("a", "eu-1", state=PinState.ERASED)
    assert refusal(ask(erased)) is UnknownSubject
    decision = ask(erased, pinned=False)
    assert isinstance(decision, Forward)
    assert decision.pin is None


def test_a_pin_that_does_not_fit_the_topology_is_refused() -> None:
    assert refusal(ask(pin("a", "eu-9"))) is Unavailable
    misplaced = pin("a", "us-1").model_copy(update={"jurisdiction": "eu"})
    assert refusal(ask(misplaced)) is WrongJurisdiction
    assert refusal(ask(misplaced, pinned=False)) is WrongJurisdiction


def test_a_closed_home_is_unavailable_and_a_draining_one_serves() -> None:
    assert refusal(ask(pin("a", "eu-1"), world=manifest(eu_1="closed"))) is Unavailable
    assert isinstance(ask(pin("a", "eu-1"), world=manifest(eu_1="draining")), Forward)


def test_unpinned_requests_take_turns_over_open_and_reachable_cells() -> None:
    def cells(**more: Any) -> list[str]:
        decisions = [ask(None, pinned=False, turn=turn, **more) for turn in range(4)]
        return [decision.home.cell for decision in decisions if isinstance(decision, Forward)]

    assert cells() == ["eu-1", "eu-2", "eu-1", "eu-2"]
    assert cells(world=manifest(eu_2="draining")) == ["eu-1"] * 4
    assert cells(down=frozenset({manifest().cells["eu-2"].zones["ams"].app})) == ["eu-1"] * 4
    everything = frozenset(zone.app for cell in manifest().cells.values() for zone in cell.zones.values())
    assert cells(down=everything) == ["eu-1", "eu-2", "eu-1", "eu-2"]
    nowhere = ask(None, pinned=False, world=manifest(eu_1="closed", eu_2="draining"))
    assert refusal(nowhere) is Unavailable


MANIFESTS = {
    (eu, us, state): manifest(eu, us, eu_1=state) for eu, us, state in itertools.product(POLICIES, POLICIES, STATES)
}


@settings(max_examples=1000, deadline=None)
@given(
    world=st.sampled_from(list(MANIFESTS.values())),
    vantage=st.sampled_from([EU, US]),
    listener=st.sampled_from(list(Listener)),
    pinned=st.booleans(),
    path=st.sampled_from(["/notes", "/.domicile/v1/x", "/login"]),
    method=st.sampled_from(["GET", "POST", "DELETE"]),
    turn=st.integers(min_value=0, max_value=10),
    cell=st.sampled_from(["eu-1", "eu-2", "us-1", "eu-9", None]),
    state=st.sampled_from(list(PinState)),
    data=st.data(),
)
def test_no_decision_leads_out_of_the_jail(
    world: Manifest, vantage: Identity, listener: Listener, pinned: bool, path: str, method: str, turn: int,
    cell: str | None, state: PinState, data: st.DataObject,
) -> None:  # fmt: skip
    addresses = [zone.app for c in world.cells.values() for zone in c.zones.values()]
    down = data.draw(st.frozensets(st.sampled_from(addresses)))
    subject = None if cell is None else pin("a", cell, state=state)
    decision = decide(Question(path, method, pinned, listener, subject, turn, down), Atlas(world, vantage))
    match decision:
        case Forward(home, stated):
            zones = world.cells[home.cell].zones
            allowed = {zone.gateway if path.startswith("/.domicile/") else zone.app for zone in zones.values()}
            assert {upstream.address for upstream in home.upstreams} == allowed
            assert world.cells[home.cell].jurisdiction == home.jurisdiction == vantage.jurisdiction
            assert stated is None or (stated == subject and home.cell == stated.cell)
            assert stated is not None or not pinned
        case Hairpin(routers, stated):
            assert listener is Listener.PUBLIC
            assert pinned
            assert stated == subject
            assert routers.jurisdiction == stated.jurisdiction != vantage.jurisdiction
            theirs = {router.internal for router in world.routers_of(routers.jurisdiction).values()}
            assert {upstream.address for upstream in routers.upstreams} <= theirs
        case Redirect(name, host, stated):
            assert listener is Listener.PUBLIC
            assert pinned
            assert name == stated.jurisdiction != vantage.jurisdiction
            assert host == world.jurisdictions[name].public_host
        case Refuse(error):
            assert error.status >= 400


def home_upstream(**changes: Any) -> Upstream:
    zone = manifest().cells["eu-1"].zones["fra"]
    values: dict[str, Any] = {
        "role": Role.APP, "jurisdiction": "eu", "cell": "eu-1", "zone": "fra", "address": zone.app,
        "networks": (zone.network,), **changes,
    }  # fmt: skip
    return Upstream(**values)


@pytest.mark.parametrize(
    "changes",
    [
        {"jurisdiction": "us"},
        {"cell": "eu-2"},
        {"cell": None},
        {"role": Role.STORAGE},
        {"role": Role.ROUTER},
        {"address": "127.20.1.1:80"},
        {"networks": ()},
    ],
)
def test_home_endpoints_cannot_hold_a_place_outside_the_home(changes: dict[str, Any]) -> None:
    assert HomeEndpoints("eu", "eu-1", (home_upstream(),)).upstreams
    with pytest.raises(WrongJurisdiction):
        HomeEndpoints("eu", "eu-1", (home_upstream(), home_upstream(**changes)))


def test_home_endpoints_are_never_empty() -> None:
    with pytest.raises(WrongJurisdiction):
        HomeEndpoints("eu", "eu-1", ())


@pytest.mark.parametrize("changes", [{"jurisdiction": "us"}, {"role": Role.APP}])
def test_peer_routers_are_routers_of_that_jurisdiction(changes: dict[str, Any]) -> None:
    peer = home_upstream(role=Role.ROUTER, cell=None)
    assert PeerRouters("eu", (peer,)).upstreams
    with pytest.raises(WrongJurisdiction):
        PeerRouters("eu", (peer, home_upstream(**{"role": Role.ROUTER, "cell": None, **changes})))
