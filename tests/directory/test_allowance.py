"""Who asks about aliases too often is refused, and nobody else."""

from __future__ import annotations

import pytest
from domicile_testing import Storage, Trust
from domicile_testing.directories import RunningDirectory, any_key, directory_settings, serving

from domicile.directory.allowance import Allowance
from domicile.identity import Signer
from domicile.model import AliasKey, Identity, NotFound, Role, TooMany

ONE = Identity("acme", "eu", Role.APP, "eu-1.fra")
OTHER = Identity("acme", "us", Role.APP, "us-1.iad")


def test_what_is_saved_up_is_spent_once_and_earned_again() -> None:
    now = 0.0
    allowance = Allowance(2.0, 3.0, clock=lambda: now)
    for _ in range(3):
        allowance.take(ONE)
    with pytest.raises(TooMany) as refused:
        allowance.take(ONE)
    assert refused.value.retry_after == 1
    allowance.take(OTHER)
    now = 0.5
    allowance.take(ONE)
    with pytest.raises(TooMany):
        allowance.take(ONE)
    now = 1e6
    for _ in range(3):
        allowance.take(ONE)
    with pytest.raises(TooMany):
        allowance.take(ONE)
    now -= 1000  # a clock that goes back earns nothing
    with pytest.raises(TooMany):
        allowance.take(ONE)


def test_callers_who_are_gone_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("domicile.directory.allowance.REMEMBERED", 10)
    now = 0.0
    allowance = Allowance(1.0, 2.0, clock=lambda: now)
    for number in range(100):
        now = float(number)
        allowance.take(Identity("acme", "eu", Role.APP, f"eu-{number}.fra"))
    assert len(allowance._left) <= 12
    allowance.take(Identity("acme", "eu", Role.APP, "eu-99.fra"))
    with pytest.raises(TooMany):
        allowance.take(Identity("acme", "eu", Role.APP, "eu-99.fra"))


async def test_going_through_addresses_is_429_and_other_callers_are_served(
    directory: RunningDirectory, trust: Trust, storage: Storage, operator: Signer
) -> None:
    settings = directory_settings(trust, storage.address, operator, name="iad")
    settings = settings.model_copy(update={"alias_rate": 0.01, "alias_burst": 5.0})
    async with serving(settings, trust, operator) as narrow:
        paths = [f"/v1/aliases/email/{any_key()}" for _ in range(8)]
        answers = [await narrow.ask("GET", path) for path in paths]
        assert [answer.status for answer in answers] == [404] * 5 + [429] * 3
        assert answers[-1].body["code"] == "too-many"
        assert int(answers[-1].headers["Retry-After"]) > 60
        with pytest.raises(TooMany) as refused:
            await narrow.app.put_alias("email", AliasKey(any_key()), any_key())
        assert refused.value.retry_after > 60
        with pytest.raises(NotFound):
            await narrow.client("us", Role.APP, "us-1.iad").alias("email", AliasKey(any_key()))
