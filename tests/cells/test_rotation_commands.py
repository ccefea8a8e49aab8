"""``domicile-cell rotate`` as an operator runs it, and killed wherever it is."""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from domicile_testing import Storage, Trust, free_port
from domicile_testing.cell import keep_topology, manifest, variables
from domicile_testing.databases import until
from domicile_testing.long import long_form
from domicile_testing.turning import Patient, World, check, patient, said, turning, writers

from domicile.model import Role


@pytest.fixture
async def world(
    trust: Trust, key_storage: Storage, cell_storage: Storage, cell: asyncpg.Connection
) -> AsyncIterator[World]:
    async with turning(trust, key_storage, cell_storage, cell) as made:
        yield made


def environment(world: World, storage: Storage) -> dict[str, str]:
    """Of ``domicile-cell rotate`` in ``eu-1``, which knows the topology and waits a second for caches."""
    settings = world.trust.settings("eu", Role.GATEWAY, "eu-1.fra", f"127.0.0.1:{free_port()}")
    keep_topology(world.trust, settings, manifest(settings.bind, world.address, cache_seconds=1))
    told = variables(world.trust, settings) | {"DOMICILE_STORAGE": storage.address}
    return {"PATH": str(Path(sys.executable).parent), **told}


@pytest.mark.full
async def test_the_page_on_keys_rotates_data_keys_by_its_commands(world: World, cell_storage: Storage) -> None:
    page = Path(__file__).parents[2] / "docs" / "keys.md"
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    (block,) = [each for each in blocks if "domicile-cell rotate" in each]
    home = await world.home()
    one = patient(home)
    await home.put(one)
    told, answers = environment(world, cell_storage), []
    for command in block.splitlines():
        process = await asyncio.create_subprocess_exec(
            *command.split("#")[0].split(), "--json", env=told, stdout=asyncio.subprocess.PIPE
        )
        answers.append(json.loads((await process.communicate())[0]))
        assert process.returncode == 0
    nothing = {"due": 0, "turning": 0, "started": None, "index": None, "unindexed": 0}
    assert answers == [{"ok": True, "running": False, **nothing}] * 3
    assert await world.generations(home) == [2]
    assert said(await (await world.home(home.subject_key)).all(Patient)) == said([one])


@pytest.mark.full
@pytest.mark.timeout(0)
async def test_killed_rotators_and_databases_among_many_writers_lose_nothing(
    world: World, cell_storage: Storage
) -> None:
    """The command itself, ended by SIGKILL wherever it is, and now and then the server under it and the writers."""
    homes = [await world.home() for _ in range(6)]
    for home in homes:
        await home.put_many([patient(home) for _ in range(200)])
    told, kills, done = environment(world, cell_storage), 0, 0
    going, turner = long_form(0.1), world.turner()
    async with writers(world, homes, 6, outages=True) as acknowledged:
        while going() or not (done and kills):
            process = await asyncio.create_subprocess_exec(
                "domicile-cell", "rotate", "--json", env=told, stdout=asyncio.subprocess.PIPE
            )
            wanted = random.choice([None, *range(len(homes))])
            seen = random.choice(["due", "turning"])

            async def reached(seen: str = seen, wanted: int | None = wanted, process: Any = process) -> bool:
                now = await turner.rotation("status")
                return process.returncode is not None or (now.running and getattr(now, seen) == wanted)

            await until(reached, "the rotation to get there", seconds=120)
            if process.returncode is None:
                process.kill()
                kills += 1
                if random.random() < 0.3:
                    cell_storage.kill()
                    cell_storage.restart()
            elif process.returncode == 0:
                done += 1
            await process.communicate()
    await world.rotator().run(lambda now: None)
    assert kills
    assert acknowledged
    await check(world, acknowledged)
