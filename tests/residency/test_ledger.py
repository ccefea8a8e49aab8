"""The ledger rests in every cell and its heads in every jurisdiction: nothing of a person may be in either."""

from __future__ import annotations

import json
from pathlib import Path

import asyncpg
import pytest
from domicile_testing import Storage, Trust
from domicile_testing.cell import running_directory
from domicile_testing.databases import free_port

from domicile.cells.gateway import GatewaySettings
from domicile.cells.serve import serving_cell
from domicile.client import Peer
from domicile.model import DomicileError, Pepper, Role
from domicile.ops.scan import Scanner, needles_for_value

EMAIL = "hans.canary@example.eu"
KEY = Pepper(1, b"p" * 32).subject_key(EMAIL)
HOSTILE = [
    ("GET", f"{KEY}/{EMAIL}"),
    ("GET", f"{KEY}/profiles?email={EMAIL}"),
    ("GET", f"{KEY}/profiles?plan={EMAIL}"),
    ("GET", f"{KEY}/profiles?{EMAIL}=1"),
    ("GET", f"{EMAIL}/profiles"),
    ("PUT", f"{KEY}/{EMAIL}"),
]


async def test_whatever_is_asked_the_ledger_and_the_log_name_nobody(
    trust: Trust, us: Storage, us_root: asyncpg.Connection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = await us_root.fetchval("SELECT coalesce(max(index), -1) FROM ledger.lines")
    async with running_directory(trust, tmp_path) as directory:
        settings = trust.settings(
            "us", Role.GATEWAY, "us-1.iad", f"127.0.0.1:{free_port()}", GatewaySettings,
            storage=us.address, directory=[directory.address],
        )  # fmt: skip
        assert isinstance(settings, GatewaySettings)
        own = trust.credentials("eu", Role.APP, "eu-1.fra")
        peer = Peer(own, [settings.bind], jurisdiction="us", role=Role.GATEWAY, cell="us-1")
        async with serving_cell(settings), peer:
            for method, path in HOSTILE:
                with pytest.raises(DomicileError):
                    await peer.call(method, f"/.domicile/v1/abroad/{path}", headers={"Domicile-Purpose": EMAIL})
    rows = await us_root.fetch("SELECT line FROM ledger.lines WHERE index > $1", before)
    lines = [json.loads(row["line"]) for row in rows]
    assert len(lines) == len(HOSTILE)
    assert {each["outcome"] for each in lines} == {"refused"}
    told = tmp_path / "told"
    told.write_text("\n".join(row["line"] for row in rows) + caplog.text)
    needles = [*needles_for_value("e-mail", EMAIL), *needles_for_value("subject key", str(KEY))]
    assert Scanner(needles).scan([told]).hits == []
