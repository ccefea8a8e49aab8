"""What a pin grant must say before the gateway takes it any further."""

from __future__ import annotations

from uuid import UUID

import pytest

from domicile.cells.gateway.grants import hold
from domicile.model import FenceRefused, Identity, Pepper, PinGrant, Role

PEPPER = Pepper(1, b"p" * 32)
KEY = PEPPER.subject_key("alice")
CELL = Identity("acme", "eu", Role.GATEWAY, "eu-1.fra")
INCARNATION = UUID(int=1)
GRANT = PinGrant(iss="acme", sub=KEY, jur="eu", cell="eu-1", epoch=1, incarnation=INCARNATION, iat=0, exp=60)


def test_a_grant_for_this_subject_cell_and_incarnation_holds() -> None:
    hold(GRANT, KEY, CELL, INCARNATION)


@pytest.mark.parametrize(
    "change",
    [
        {"sub": PEPPER.subject_key("bob")},
        {"jur": "us"},
        {"cell": "eu-2"},
        {"incarnation": UUID(int=2)},
    ],
)
def test_a_grant_that_differs_in_one_of_them_does_not(change: dict[str, object]) -> None:
    with pytest.raises(FenceRefused):
        hold(GRANT.model_copy(update=change), KEY, CELL, INCARNATION)
