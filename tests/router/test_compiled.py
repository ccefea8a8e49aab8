"""The compiled topology decides as the manifest itself, read anew for each request, would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from domicile_testing.routing import manifest_data, pin
from hypothesis import given, settings
from hypothesis import strategies as st

from domicile.model import CellState, Identity, Manifest, Pin, PinState, Role, Travellers, parse_manifest
from domicile.router.atlas import Atlas
from domicile.router.decide import Decision, Forward, Hairpin, Listener, Question, Redirect, Refuse, decide
from domicile.router.endpoints import HomeEndpoints, PeerRouters

DATA = manifest_data(Path())
VANTAGES = [Identity("acme", jurisdiction, Role.ROUTER, zone) for jurisdiction, zone in
            (("eu", "fra"), ("eu", "par"), ("eu", "ams"), ("us", "iad"))]  # fmt: skip
PATHS = ["/notes", "/.domicile/v1/x", "/login", "/export/1"]

Outcome = tuple[Any, ...]


def reference(question: Question, manifest: Manifest, vantage: Identity) -> Outcome:
    """The rules once more, by the manifest alone: slow, and without a class of ours but the endpoints."""
    pin, here = question.pin, vantage.jurisdiction
    pin = None if pin is None or pin.state is PinState.ERASED else pin
    role = Role.GATEWAY if question.path.startswith("/.domicile/") else Role.APP

    def home(cell: str) -> HomeEndpoints:
        return HomeEndpoints.of(manifest, cell, role, zone=vantage.zone)

    if pin is not None:
        cell = manifest.cells.get(pin.cell)
        if cell is None:
            return ("refuse", "unavailable", pin.jurisdiction)
        if cell.jurisdiction != pin.jurisdiction:
            return ("refuse", "wrong-jurisdiction", pin.jurisdiction)
        if pin.jurisdiction == here:
            writes = question.method not in ("GET", "HEAD", "OPTIONS")
            if cell.state is CellState.CLOSED or (question.pinned and pin.state is PinState.MOVING and writes):
                return ("refuse", "unavailable", here)
            return ("forward", home(pin.cell), pin)
        if question.pinned:
            return abroad(question, pin, manifest, vantage)
    elif question.pinned:
        return ("refuse", "unknown-subject", None)
    cells = [name for name, each in manifest.cells_of(here).items() if each.state is CellState.OPEN]
    up = [name for name in cells if {each.address for each in home(name).upstreams} - question.down]
    chosen = up or cells
    return ("forward", home(chosen[question.turn % len(chosen)]), None) if chosen else ("refuse", "unavailable", here)


def abroad(question: Question, pin: Pin, manifest: Manifest, vantage: Identity) -> Outcome:
    there = pin.jurisdiction
    if question.listener is Listener.INTERNAL:
        return ("refuse", "misdirected", there)
    match manifest.jurisdictions[there].travellers_on(question.path):
        case Travellers.REDIRECT:
            return ("redirect", there, manifest.jurisdictions[there].public_host, pin)
        case Travellers.REFUSE:
            return ("refuse", "cross-border-access", there)
        case Travellers.HAIRPIN:
            routers = PeerRouters.of(manifest, there, zone=vantage.zone)
            return ("hairpin", routers, pin) if routers.upstreams else ("refuse", "unavailable", there)


def told(decision: Decision) -> Outcome:
    match decision:
        case Forward(home, pin):
            return ("forward", home, pin)
        case Hairpin(routers, pin):
            return ("hairpin", routers, pin)
        case Redirect(jurisdiction, host, pin):
            return ("redirect", jurisdiction, host, pin)
        case Refuse(error, jurisdiction):
            return ("refuse", error.code, jurisdiction)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    policy = st.sampled_from(["redirect", "hairpin", "refuse"])
    data: dict[str, Any] = {**DATA, "cells": {name: dict(cell) for name, cell in DATA["cells"].items()}}
    data["jurisdictions"] = {
        name: place
        | {"travellers": draw(policy)}
        | {"traveller_paths": draw(st.just([]) | st.builds(list, st.tuples(
            st.builds(lambda wanted: {"path": "/export/*", "travellers": wanted}, policy))))}
        for name, place in DATA["jurisdictions"].items()
    }  # fmt: skip
    for cell in data["cells"].values():
        cell["state"] = draw(st.sampled_from(["open", "draining", "closed"]))
    data["routers"] = {zone: place for zone, place in DATA["routers"].items() if draw(st.integers(0, 3))}
    return parse_manifest(data)


ADDRESSES = [zone[part] for cell in DATA["cells"].values() for zone in cell["zones"].values()
             for part in ("app", "gateway")]  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(manifests(), st.data())
def test_every_question_gets_the_same_answer(manifest: Manifest, data: st.DataObject) -> None:
    for vantage in VANTAGES:
        atlas = Atlas(manifest, vantage)
        for _ in range(4):
            cell = data.draw(st.sampled_from(["eu-1", "eu-2", "us-1", "eu-9", "misplaced", None]))
            state = data.draw(st.sampled_from(list(PinState)))
            subject = None if cell is None else pin("a", "us-1" if cell == "misplaced" else cell, state=state)
            if subject is not None and cell == "misplaced":
                subject = subject.model_copy(update={"jurisdiction": "eu"})
            question = Question(
                data.draw(st.sampled_from(PATHS)),
                data.draw(st.sampled_from(["GET", "POST"])),
                data.draw(st.booleans()),
                data.draw(st.sampled_from(list(Listener))),
                subject,
                data.draw(st.integers(0, 5)),
                data.draw(st.frozensets(st.sampled_from(ADDRESSES))),
            )
            assert told(decide(question, atlas)) == reference(question, manifest, vantage)


def test_no_endpoint_of_another_jurisdictions_cell_exists_in_an_atlas() -> None:
    manifest = parse_manifest(DATA)
    for vantage in VANTAGES:
        atlas = Atlas(manifest, vantage)
        held = {
            each.address
            for home in atlas.homes.values()
            for set_ in (home.app, home.gateway)
            for each in set_.upstreams
        }
        own = {
            address
            for cell in manifest.cells_of(vantage.jurisdiction).values()
            for zone in cell.zones.values()
            for address in (zone.app, zone.gateway)
        }
        assert held == own
        assert set(atlas.abroad) == set(manifest.jurisdictions) - {vantage.jurisdiction}
