"""What cells tell a directory whose database has lost pins: their fences, by the reporter of a real gateway."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import uuid4

import pytest

from domicile.cells.gateway.reports import Reporter
from domicile.client import DirectoryClient
from domicile.model import AliasKey, Identity, Pin, Role, SubjectKey, Unavailable
from domicile.model.wire import ClaimRequest, FenceReport
from domicile_testing.directories import RunningDirectory, any_key

CELLS = {"eu-1": "eu", "eu-2": "eu", "us-1": "us"}
QUIET_IS_OVER = "UPDATE directory.clock SET reconciling_since = reconciling_since - interval '2 minutes'"


@dataclass
class Cell:
    """A cell's fences, as its gateway reads them."""

    fences: dict[SubjectKey, FenceReport] = field(default_factory=dict)

    def hold(self, pin: Pin, state: str = "open", aliases: dict[str, AliasKey] | None = None) -> None:
        fields = {"subject_key": pin.subject_key, "epoch": pin.epoch, "state": state, "alias_keys": aliases or {}}
        self.fences[pin.subject_key] = FenceReport.model_validate(fields)

    async def page(self, after: SubjectKey | None, limit: int) -> list[FenceReport]:
        keys = sorted(key for key in self.fences if after is None or key > after)
        return [self.fences[key] for key in keys[:limit]]

    async def forget_previous(self, version: int) -> int:
        old = [key for key, fence in self.fences.items() if fence.previous_key and fence.previous_key[0] == version]
        self.fences |= {key: self.fences[key].model_copy(update={"previous_key": None}) for key in old}
        return len(old)


@dataclass
class Cells:
    all: dict[str, Cell] = field(default_factory=lambda: {name: Cell() for name in CELLS})

    def hold(self, pin: Pin, aliases: dict[str, AliasKey] | None = None) -> None:
        self.all[pin.cell].hold(pin, aliases=aliases)

    async def report(self, directory: RunningDirectory, *names: str) -> None:
        for name in names or CELLS:
            identity = Identity("acme", CELLS[name], Role.GATEWAY, f"{name}.fra")
            client = gateway(directory, name)
            await Reporter(identity, self.all[name], client).report_if_asked()


def gateway(directory: RunningDirectory, cell: str) -> DirectoryClient:
    return directory.client(CELLS[cell], Role.GATEWAY, f"{cell}.fra")


async def check_refuses(directory: RunningDirectory, known: Pin) -> None:
    """Nothing is claimed, granted or denied; what is known is still told."""
    app = directory.app
    at_home = directory.client(known.jurisdiction, Role.APP, f"{known.cell}.fra")
    assert await app.pin(known.subject_key) == known
    for refused in [
        app.claim(any_key(), ClaimRequest(residence="DE")),
        app.pin(any_key(), fresh=True),
        app.resolve([known.subject_key, any_key()]),
        at_home.put_alias("email", AliasKey(any_key()), known.subject_key),
        app.alias("email", AliasKey(any_key())),
        gateway(directory, known.cell).grant(known.subject_key, uuid4()),
    ]:
        with pytest.raises(Unavailable, match="may have lost"):
            await refused
    router = directory.client("eu", Role.ROUTER)
    with pytest.raises(Unavailable):
        async with router.snapshot() as snapshot:
            await snapshot.head()
