"""The key service while its database is away: refused with a reason, never an answer that was not kept."""

from __future__ import annotations

from uuid import UUID, uuid4

import psutil
import pytest
from domicile_testing import Storage, Trust
from domicile_testing.cell import key_client, key_section, key_settings

from domicile.cells.keys import serve_keys
from domicile.client import Peer
from domicile.model import Role, Unavailable

PRINCIPAL = UUID(int=1)


async def test_no_key_is_given_out_while_the_database_is_gone(trust: Trust, key_storage: Storage) -> None:
    settings = key_settings(trust, key_storage)
    operator = trust.credentials("eu", Role.OPERATOR, "fra")
    async with (
        serve_keys(settings, key_section()),
        key_client(trust, settings.bind) as keys,
        Peer(operator, [settings.bind], jurisdiction="eu", role=Role.KEYS) as asking,
    ):
        held = await keys.data_key(uuid4(), PRINCIPAL, create=True)
        server = psutil.Process(key_storage.server.pid)
        ended = [server, *server.children(recursive=True)]
        key_storage.server.kill()
        key_storage.server.wait()
        # a backend may still answer before it notices that its postmaster is gone
        assert not psutil.wait_procs(ended, timeout=10)[1]
        for _ in range(2):
            with pytest.raises(Unavailable, match="key store"):
                await keys.data_key(uuid4(), PRINCIPAL, create=True)
        assert await keys.data_key(held.subject, PRINCIPAL) == held  # what a cell holds serves it on
        with pytest.raises(Unavailable, match="key store"):
            await asking.call("GET", "/readyz")
        assert b"ok" in await asking.call("GET", "/healthz")
    with pytest.raises(Unavailable, match="key store"):
        async with serve_keys(settings, key_section()):
            pass
