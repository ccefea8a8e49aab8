"""Placement as a decision: who decides the jurisdiction, who takes a pin, and that no cell takes too many."""

from __future__ import annotations

from math import ceil

import pytest
from domicile_testing.directories import any_key, manifest
from hypothesis import given
from hypothesis import strategies as st

from domicile.directory.placement import POINTS, Round, check_agrees, jurisdiction_for, open_cells, place
from domicile.model import Conflict, InvalidInput, Pin, SubjectKey, Unavailable
from domicile.model.wire import ClaimRequest

KEYS = st.binary(min_size=17, max_size=17).map(SubjectKey)
NAMES = [f"eu-{number}" for number in range(1, 7)]
WEIGHTS = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 10_000), min_size=1)


@pytest.mark.parametrize(
    ("claim", "jurisdiction"),
    [
        (ClaimRequest(residence="DE", jurisdiction="us", observed_country="US"), "eu"),
        (ClaimRequest(residence="FR"), "eu"),
        (ClaimRequest(jurisdiction="us", observed_country="DE"), "us"),
        (ClaimRequest(observed_country="US"), "us"),
    ],
)
def test_residence_decides_then_the_jurisdiction_asked_for_then_the_country_observed(
    claim: ClaimRequest, jurisdiction: str
) -> None:
    assert jurisdiction_for(manifest(), claim) == jurisdiction


@pytest.mark.parametrize(
    "claim",
    [
        ClaimRequest(),
        ClaimRequest(observed_country="BR"),
        ClaimRequest(residence="BR", jurisdiction="eu", observed_country="DE"),
        ClaimRequest(jurisdiction="mars", observed_country="DE"),
    ],
    ids=["nothing", "observed outside", "resides outside", "asks for an unknown one"],
)
def test_there_is_no_default_jurisdiction(claim: ClaimRequest) -> None:
    with pytest.raises(InvalidInput) as refused:
        jurisdiction_for(manifest(), claim)
    assert refused.value.status == 422
    assert "BR" not in str(refused.value), "where a person lives is not for a message"


@pytest.mark.parametrize(
    "claim",
    [
        ClaimRequest(),
        ClaimRequest(residence="FR"),
        ClaimRequest(jurisdiction="eu"),
        ClaimRequest(observed_country="US"),
        ClaimRequest(observed_country="BR"),
        ClaimRequest(residence="DE", jurisdiction="us"),
    ],
)
def test_what_only_observes_never_contradicts_a_pin(claim: ClaimRequest) -> None:
    check_agrees(manifest(), claim, Pin(subject_key=any_key(), jurisdiction="eu", cell="eu-1", epoch=1))


@pytest.mark.parametrize("claim", [ClaimRequest(residence="US"), ClaimRequest(jurisdiction="us")])
def test_what_insists_on_another_jurisdiction_contradicts_a_pin(claim: ClaimRequest) -> None:
    with pytest.raises(Conflict):
        check_agrees(manifest(), claim, Pin(subject_key=any_key(), jurisdiction="eu", cell="eu-1", epoch=1))


def test_a_draining_or_closed_cell_takes_nobody() -> None:
    cells = {"eu-1": (7, "open"), "eu-2": (1, "draining"), "eu-3": (1, "closed"), "us-1": (1, "open")}
    assert open_cells(manifest(cells), "eu") == {"eu-1": 7}


def test_without_an_open_cell_the_jurisdiction_is_named() -> None:
    with pytest.raises(Unavailable, match=r"no cell of eu "):
        open_cells(manifest({"eu-1": (1, "draining"), "us-1": (1, "open")}), "eu")


@given(WEIGHTS, st.lists(KEYS, max_size=120))
def test_no_cell_ever_holds_more_than_its_bounded_share(weights: dict[str, int], keys: list[SubjectKey]) -> None:
    held = Round({})
    for position, key in enumerate(keys, 1):
        cell, held = place(held, weights, key)
        assert held.weights == weights
        assert held.placed == position
        fair = position * weights[cell] / sum(weights.values())
        assert held.root[cell].placed <= ceil(1.25 * fair + 1e-9)


@given(WEIGHTS, KEYS, st.integers(1, 60))
def test_one_key_asked_for_again_and_again_still_fills_no_cell(
    weights: dict[str, int], key: SubjectKey, n: int
) -> None:
    held = Round({})
    for _ in range(n):
        _, held = place(held, weights, key)
    for cell, share in held.root.items():
        assert share.placed <= ceil(1.25 * n * weights[cell] / sum(weights.values()) + 1e-9)


def test_cells_are_filled_by_weight() -> None:
    held, weights = Round({}), {"eu-1": 300, "eu-2": 100}
    for number in range(4000):
        _, held = place(held, weights, SubjectKey(number.to_bytes(17)))
    assert 2700 <= held.root["eu-1"].placed <= 3300
    assert 700 <= held.root["eu-2"].placed <= 1250


def test_a_cell_of_very_little_weight_is_on_the_ring() -> None:
    weights = {"eu-1": 10_000, "eu-2": 1}
    placed = {place(Round({}), weights, SubjectKey(number.to_bytes(17)))[0] for number in range(20 * POINTS)}
    assert placed == {"eu-1", "eu-2"}


@given(KEYS, WEIGHTS)
def test_an_empty_round_follows_the_hash_alone(key: SubjectKey, weights: dict[str, int]) -> None:
    assert place(Round({}), weights, key) == place(Round({}), weights, key)


@given(st.lists(KEYS, min_size=30, max_size=60, unique=True))
def test_a_new_cell_begins_a_new_round_and_most_newcomers_keep_their_place_on_the_ring(keys: list[SubjectKey]) -> None:
    before, after = {"eu-1": 100, "eu-2": 100}, {"eu-1": 100, "eu-2": 100, "eu-3": 100}
    held = Round({})
    for key in keys:
        _, held = place(held, before, key)
    _, begun = place(held, after, keys[0])
    assert (begun.weights, begun.placed) == (after, 1)
    hashed = [(place(Round({}), before, key)[0], place(Round({}), after, key)[0]) for key in keys]
    stayed = sum(old == new for old, new in hashed)
    moved_elsewhere = sum(old != new != "eu-3" for old, new in hashed)
    assert stayed > moved_elsewhere


@pytest.mark.parametrize("changed", [{"eu-1": 100}, {"eu-1": 100, "eu-2": 50}, {"eu-1": 100, "eu-3": 100}])
def test_another_set_of_open_cells_begins_a_new_round(changed: dict[str, int]) -> None:
    _, held = place(Round({}), {"eu-1": 100, "eu-2": 100}, any_key())
    _, begun = place(held, changed, any_key())
    assert (begun.weights, begun.placed) == (changed, 1)
