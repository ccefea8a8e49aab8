"""Who is among the first, and what counts as a disagreement."""

from __future__ import annotations

import random

import pytest
from domicile_testing.routing import pin, subject
from hypothesis import given
from hypothesis import strategies as st

from domicile.model import IdentitiesDisagree, Pin, SubjectKey, TokenInvalid, Unauthenticated
from domicile.router.rollout import Disagreement, Reading, disagreement, drawn_by, in_rollout

PERCENT = st.floats(min_value=0, max_value=100, allow_nan=False)


@given(st.binary(max_size=40), PERCENT, PERCENT, st.binary(max_size=100))
def test_nobody_drops_out_when_the_percentage_grows(who: bytes, one: float, other: float, salt: bytes) -> None:
    low, high = sorted((one, other))
    assert in_rollout(who, low, salt) <= in_rollout(who, high, salt)
    assert not in_rollout(who, 0, salt)
    assert in_rollout(who, 100, salt)


@pytest.mark.parametrize("percent", [1, 25, 50, 99])
def test_the_share_is_what_was_asked_for(percent: float) -> None:
    chance = random.Random(3)
    chosen = sum(in_rollout(chance.randbytes(17), percent, b"a") for _ in range(20_000))
    assert chosen / 20_000 == pytest.approx(percent / 100, abs=0.012)


def test_the_next_change_begins_with_others() -> None:
    chance = random.Random(5)
    keys = [chance.randbytes(17) for _ in range(4000)]
    first = {key for key in keys if in_rollout(key, 10, b"a")}
    again = {key for key in keys if in_rollout(key, 10, b"a")}
    other = {key for key in keys if in_rollout(key, 10, b"b")}
    assert first == again
    assert len(first & other) < len(first) / 3


OLD = SubjectKey(b"\2" + bytes(16))
ALICE, BOB, NOBODY = (subject("alice"), OLD), (subject("bob"),), ()
REFUSED, INVALID = Unauthenticated("x"), TokenInvalid("y")


@pytest.mark.parametrize(
    ("live", "new", "kind"),
    [
        (ALICE, ALICE, None),
        (ALICE, (OLD,), None),
        ((OLD,), ALICE, None),
        (NOBODY, NOBODY, None),
        (ALICE, BOB, Disagreement.SUBJECT),
        (ALICE, NOBODY, Disagreement.LOST),
        (NOBODY, ALICE, Disagreement.GAINED),
        (ALICE, REFUSED, Disagreement.REFUSED),
        (NOBODY, REFUSED, Disagreement.REFUSED),
        (REFUSED, ALICE, Disagreement.ADMITTED),
        (REFUSED, NOBODY, Disagreement.ADMITTED),
        (REFUSED, INVALID, Disagreement.REASON),
        (REFUSED, Unauthenticated("another text"), None),
        (IdentitiesDisagree("x"), IdentitiesDisagree("x"), None),
    ],
)
def test_each_kind_of_disagreement(live: Reading, new: Reading, kind: Disagreement | None) -> None:
    assert disagreement(live, new, same_class=True) is kind
    assert disagreement(live, new, same_class=False) is (kind or Disagreement.CLASS)


RENAMED = (SubjectKey(b"\3" + bytes(16)), OLD)


@pytest.mark.parametrize("pinned", [RENAMED[0], OLD])
@pytest.mark.parametrize(
    ("live", "new"), [(RENAMED, RENAMED), (RENAMED, REFUSED), (NOBODY, RENAMED), (RENAMED, (OLD,))]
)
def test_with_two_peppers_a_subject_is_drawn_by_the_key_that_it_is_pinned_by(
    live: Reading, new: Reading, pinned: SubjectKey
) -> None:
    def known(*keys: SubjectKey) -> Pin | None:
        return pin("alice", "eu-1").model_copy(update={"subject_key": pinned}) if pinned in keys else None

    drawn = {drawn_by(*order, known) for order in ((live, new), (new, live))}
    assert drawn == {pinned, drawn_by((pinned,), NOBODY, known)}, "as by a token that names that key alone"


def test_without_a_pin_or_a_subject_something_decides_all_the_same() -> None:
    assert drawn_by(RENAMED, NOBODY, lambda *_: None) == RENAMED[0]
    assert drawn_by(NOBODY, REFUSED, lambda *_: None) is None
