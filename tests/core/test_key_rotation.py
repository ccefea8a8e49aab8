"""Signing keys change while statements are checked: by two keys at once, with clocks apart, and nothing is refused."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from domicile.identity import Signer, Verifier
from domicile.model import RESIDENCY_TOKEN_SECONDS, Pin, SubjectKey, TokenInvalid

NOW = 1_800_000_000.0
PIN = Pin(subject_key=SubjectKey(b"\1" + bytes(16)), jurisdiction="eu", cell="eu-1", epoch=3)


@pytest.fixture
def signers(tmp_path: Path) -> tuple[Signer, Signer]:
    return Signer.load_or_create(tmp_path / "old.pem"), Signer.load_or_create(tmp_path / "new.pem")


def verifier(*signers: Signer, late: float = 0.0) -> Verifier:
    """Of somebody whose clock is ``late`` seconds ahead."""
    return Verifier("acme", [signer.public("residency") for signer in signers], clock=lambda: NOW + late)


def test_tokens_by_the_old_and_the_new_key_hold_while_both_are_published(signers: tuple[Signer, Signer]) -> None:
    old, new = signers
    checked = verifier(old)
    by_old = old.residency_token(PIN, "acme", clock=lambda: NOW)
    by_new = new.residency_token(PIN, "acme", clock=lambda: NOW)
    assert checked.residency(by_old).epoch == 3
    assert not checked.knows(by_new, "residency"), "the reader is told to read the set anew"
    checked.replace([each.public("residency") for each in signers])
    for token in (by_old, by_new):
        assert checked.knows(token, "residency")
        assert checked.residency(token).sub == PIN.subject_key
    checked.replace([new.public("residency")])
    assert checked.residency(by_new).sub == PIN.subject_key
    with pytest.raises(TokenInvalid, match="not published"):
        checked.residency(by_old)


def test_a_key_is_good_for_the_use_that_it_is_published_for(signers: tuple[Signer, Signer]) -> None:
    old, new = signers
    checked = Verifier("acme", [old.public("residency"), new.public("pin-grant")], clock=lambda: NOW)
    grant = new.pin_grant(PIN, "acme", uuid.uuid4(), clock=lambda: NOW)
    assert checked.pin_grant(grant).epoch == 3
    with pytest.raises(TokenInvalid):
        checked.pin_grant(old.pin_grant(PIN, "acme", uuid.uuid4(), clock=lambda: NOW))
    with pytest.raises(TokenInvalid):
        checked.residency(new.residency_token(PIN, "acme", clock=lambda: NOW))
    with pytest.raises(TokenInvalid, match="another type"):
        checked.residency(grant)


@pytest.mark.parametrize("apart", [-29.0, 0.0, 29.0])
def test_clocks_may_be_half_a_minute_apart(signers: tuple[Signer, Signer], apart: float) -> None:
    token = signers[0].residency_token(PIN, "acme", clock=lambda: NOW)
    assert verifier(signers[0], late=apart).residency(token).cell == "eu-1"
    grant = signers[0].pin_grant(PIN, "acme", uuid.uuid4(), clock=lambda: NOW)
    keys = [signers[0].public("pin-grant")]
    assert Verifier("acme", keys, clock=lambda: NOW + apart).pin_grant(grant).cell == "eu-1"


@pytest.mark.parametrize("apart", [-32.0, RESIDENCY_TOKEN_SECONDS + 31.0])
def test_and_no_further(signers: tuple[Signer, Signer], apart: float) -> None:
    token = signers[0].residency_token(PIN, "acme", clock=lambda: NOW)
    with pytest.raises(TokenInvalid, match="outside its time"):
        verifier(signers[0], late=apart).residency(token)


def test_tokens_of_one_moment_do_not_expire_at_one(signers: tuple[Signer, Signer]) -> None:
    checked = verifier(signers[0])
    lives = []
    for _ in range(500):
        token = checked.residency(signers[0].residency_token(PIN, "acme", clock=lambda: NOW))
        lives.append(token.exp - token.iat)
    assert max(lives) <= RESIDENCY_TOKEN_SECONDS
    assert min(lives) > 0.9 * RESIDENCY_TOKEN_SECONDS - 1
    assert max(lives) - min(lives) > 60
    assert len(set(lives)) > 50
