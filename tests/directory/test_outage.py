"""PostgreSQL killed under the directory: 503 with Retry-After, nothing of the driver's, and back when it is back."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from domicile_testing import Storage, Trust, running_storage
from domicile_testing.directories import Answer, RunningDirectory, any_key, directory_settings, forget_marks, serving

from domicile.identity import Signer
from domicile.model import GLOBAL, Endpoint, Role, Unavailable
from domicile.model.wire import ClaimRequest


@pytest.fixture
def storage(trust: Trust, tmp_path: Path) -> Iterator[Storage]:
    """A database of its own for each test, since it is killed."""
    with running_storage(
        trust, tmp_path / "pg", Endpoint.DIRECTORY_STORAGE, GLOBAL, "fra", "domicile_directory"
    ) as running:
        yield running


def check_unavailable(answer: Answer) -> None:
    assert (answer.status, answer.body["code"]) == (503, "unavailable"), answer
    assert int(answer.headers["Retry-After"]) > 0
    told = str(answer.body).lower()
    assert not [word for word in ("asyncpg", "postgres", "error", "connection", "traceback") if word in told], told


def server_processes(storage: Storage) -> list[psutil.Process]:
    server = psutil.Process(storage.server.pid)
    return [server, *server.children(recursive=True)]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_dead_or_silent_database_is_unavailable(
    directory: RunningDirectory, storage: Storage, how: signal.Signals
) -> None:
    key = any_key()
    claim = await directory.ask("PUT", f"/v1/pins/{key}", {"residence": "DE"})
    assert claim.status == 201
    processes = server_processes(storage)
    for process in processes:
        process.send_signal(how)
    if how is signal.SIGKILL:
        await asyncio.to_thread(storage.server.wait, 10)
    try:
        asked = [
            ("GET", f"/v1/pins/{key}", None, Role.ROUTER),
            ("PUT", f"/v1/pins/{key}", {"residence": "DE"}, Role.APP),
            ("PUT", f"/v1/pins/{any_key()}", {"residence": "US"}, Role.APP),
            ("POST", "/v1/pins:resolve", {"subject_keys": [str(key)]}, Role.ROUTER),
            ("GET", f"/v1/aliases/email/{key}", None, Role.APP),
            ("GET", "/v1/topology", None, Role.ROUTER),
            ("GET", "/.well-known/jwks.json", None, Role.ROUTER),
            ("GET", "/readyz", None, Role.OPERATOR),
        ]
        for answer in await asyncio.gather(
            *(
                directory.ask(method, path, body, jurisdiction=GLOBAL if role is Role.OPERATOR else "eu", role=role)
                for method, path, body, role in asked
            )
        ):
            check_unavailable(answer)
        assert (await directory.ask("GET", "/healthz", jurisdiction=GLOBAL, role=Role.OPERATOR)).status == 200
    finally:
        if how is signal.SIGSTOP:
            for process in processes:
                process.send_signal(signal.SIGCONT)


async def test_claims_under_way_when_the_database_dies_are_unavailable_or_kept(
    trust: Trust, operator: Signer, tmp_path: Path
) -> None:
    """A claim that was answered is in the database that comes back; any other was refused as our own error."""
    forget_marks(trust)
    arguments = (trust, tmp_path / "pg", Endpoint.DIRECTORY_STORAGE, GLOBAL, "fra", "domicile_directory")
    acknowledged = []
    with running_storage(*arguments) as storage:
        async with serving(directory_settings(trust, storage.address, operator), trust, operator) as directory:
            await directory.publish(1)

            async def storm() -> None:
                client = directory.app
                while True:
                    try:
                        acknowledged.append(await client.claim(any_key(), ClaimRequest(residence="DE")))
                    except Unavailable:
                        return

            storms = [asyncio.create_task(storm()) for _ in range(8)]
            while len(acknowledged) < 20:
                await asyncio.wait(storms, timeout=0.02)
            storage.kill()
            await asyncio.gather(*storms)
        storage.restart()
        async with serving(directory_settings(trust, storage.address, operator), trust, operator) as directory:
            keys = [pin.subject_key for pin in acknowledged]
            answers = [await directory.app.resolve(keys[n : n + 1000]) for n in range(0, len(keys), 1000)]
            assert [pin for answer in answers for pin in answer.pins] == acknowledged
