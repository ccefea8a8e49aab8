"""The whole map out and in again: nothing lost on the way, and a bad file changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
from domicile_testing import Storage, Trust, free_port
from domicile_testing.databases import until
from domicile_testing.directories import RunningDirectory, any_key

from domicile.directory.bulk import HEAD, rows
from domicile.model import GLOBAL, InvalidInput, Role
from domicile.model.wire import ClaimRequest

HOMES = frozenset({b"eu\teu-1", b"eu\teu-2", b"us\tus-1"})
KEY = "01" + 32 * "a"
GOOD = f"{KEY}\teu\teu-1\t1\tactive"


def file(*lines: str, end: str = "\n") -> bytes:
    return "".join(line + end for line in (HEAD.decode(), *lines)).encode()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        pytest.param("", "1 fields", id="empty"),
        pytest.param(GOOD + "\t", "6 fields", id="a field too many"),
        pytest.param(GOOD.replace(KEY, KEY[:-1]), "subject_key is not", id="a short key"),
        pytest.param(GOOD.upper(), "subject_key is not", id="upper case"),
        pytest.param(GOOD.replace("\t1\t", "\t0\t"), "epoch is not", id="epoch 0"),
        pytest.param(GOOD.replace("\t1\t", "\t-1\t"), "epoch is not", id="a negative epoch"),
        pytest.param(GOOD.replace("\t1\t", f"\t{2**63}\t"), "epoch is over", id="an epoch over 63 bits"),
        pytest.param(GOOD.replace("active", "asleep"), "state is not", id="an unknown state"),
        pytest.param(GOOD.replace("eu-1", "us-1"), "no such cell", id="a cell of another jurisdiction"),
        pytest.param(GOOD.replace("eu-1", "eu-9"), "no such cell", id="an unknown cell"),
        pytest.param(GOOD.replace("eu-1", "é"), "cell is not", id="not ASCII"),
        pytest.param(GOOD.replace("\t", " "), "1 fields", id="spaces"),
        pytest.param(GOOD + 300 * "x", "longer than", id="too long"),
    ],
)
def test_a_bad_line_is_refused_by_its_number(line: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=f"^line 3: {why}|line 3.*{why}") as refused:
        list(rows(file(GOOD, line, GOOD).split(b"\n")[:-1], HOMES))
    assert refused.value.where == "line 3"
    assert KEY not in str(refused.value)


def test_a_head_is_asked_for_and_line_ends_of_windows_are_taken() -> None:
    with pytest.raises(InvalidInput, match="line 1"):
        list(rows([GOOD.encode()], HOMES))
    assert len(list(rows(file(GOOD, end="\r\n").splitlines(keepends=True), HOMES))) == 1


_COMMAND = (sys.executable, "-c", "from domicile.directory.commands import app; app()")


class Operator:
    """Runs ``domicile pin`` as a child, with an operator's certificate."""

    def __init__(self, trust: Trust, storage: Storage) -> None:
        credentials = trust.credentials(GLOBAL, Role.OPERATOR, "ops")
        self._environment = os.environ | {
            "DOMICILE_DEPLOYMENT": "acme",
            "DOMICILE_CERTIFICATE": str(credentials.certificate),
            "DOMICILE_KEY": str(credentials.key),
            "DOMICILE_AUTHORITIES": str(credentials.authorities),
            "DOMICILE_STORAGE": storage.address,
            "DOMICILE_OPERATORS": str(trust.folder / "operators"),
        }

    async def pin(self, *arguments: str, given: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
        command = [*_COMMAND, *arguments]
        return await asyncio.to_thread(
            subprocess.run,
            command,
            input=given,
            capture_output=True,
            check=False,
            timeout=120,
            env=self._environment | environment,
        )

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [*_COMMAND, *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=self._environment)

    async def counts(self, *arguments: str, given: bytes = b"") -> dict[str, object]:
        done = await self.pin("import", *arguments, "--json", given=given)
        answer: dict[str, object] = json.loads(done.stdout)
        assert answer["ok"] is (done.returncode == 0), done
        return answer


@pytest.fixture
async def operator_at(directory: RunningDirectory, trust: Trust, storage: Storage) -> Operator:
    assert directory.address
    return Operator(trust, storage)


async def test_what_is_exported_is_imported_again(
    directory: RunningDirectory, operator_at: Operator, database: asyncpg.Connection, storage: Storage, tmp_path: Path
) -> None:
    for country in ("DE", "US", "FR"):
        await directory.app.claim(any_key(), ClaimRequest(residence=country))
    path = tmp_path / "pins.tsv"
    done = await operator_at.pin("export", str(path), "--json")
    assert json.loads(done.stdout) == {"ok": True, "exported": 3}
    lines = path.read_bytes().splitlines()
    assert lines[0] == HEAD
    assert lines[1:] == sorted(lines[1:])
    assert (await operator_at.pin("export")).stdout == path.read_bytes()
    both = f"127.0.0.1:{free_port()},{storage.address}"
    assert (await operator_at.pin("export", DOMICILE_STORAGE=both)).stdout == path.read_bytes(), "the other zone leads"
    refused = await operator_at.pin("export", str(path))
    assert refused.returncode == 1
    assert b"--force" in refused.stderr
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o600, "it is personal data"
    told = json.loads((await operator_at.pin("export", str(path), "--json")).stdout)
    assert (told["ok"], told["where"]) == (False, str(path))
    before = await database.fetch("SELECT * FROM directory.pins ORDER BY 1")
    counts = {"inserted": 0, "updated": 0, "unchanged": 3, "kept": 0}
    assert await operator_at.counts(str(path)) == {"ok": True} | counts
    await database.execute("ALTER TABLE directory.pins DISABLE TRIGGER keep_pin")
    await database.execute("DELETE FROM directory.pins")
    await database.execute("ALTER TABLE directory.pins ENABLE TRIGGER keep_pin")
    assert (await operator_at.counts(str(path)))["inserted"] == 3
    after = await database.fetch("SELECT * FROM directory.pins ORDER BY 1")
    columns = ("subject_key", "jurisdiction", "cell", "epoch", "state")
    assert [[row[c] for c in columns] for row in after] == [[row[c] for c in columns] for row in before]


async def test_higher_epochs_win_lower_ones_are_refused_and_nothing_is_half_done(
    directory: RunningDirectory, operator_at: Operator
) -> None:
    pin = await directory.app.claim(any_key(), ClaimRequest(residence="US"))
    new = any_key()
    fresh = f"{new}\teu\teu-2\t7\tactive"
    higher = f"{pin.subject_key}\teu\teu-1\t5\tactive"
    lower = f"{pin.subject_key}\tus\tus-1\t4\tactive"
    counts = await operator_at.counts(given=file(fresh, higher))
    assert counts == {"ok": True, "inserted": 1, "updated": 1, "unchanged": 0, "kept": 0}
    assert (await directory.app.pin(pin.subject_key)).epoch == 5
    other = any_key()
    refused = await operator_at.counts(given=file(f"{other}\teu\teu-2\t1\tactive", lower))
    assert (refused["ok"], refused["code"], refused["where"]) == (False, "conflict", "line 3")
    assert (await directory.app.resolve([other])).unknown == [other], "nothing of a refused file is kept"
    kept = await operator_at.counts("--keep", given=file(f"{other}\teu\teu-2\t1\tactive", lower))
    assert kept == {"ok": True, "inserted": 1, "updated": 0, "unchanged": 0, "kept": 1}
    twice = await operator_at.counts(given=file(fresh, higher, fresh))
    assert (twice["code"], twice["where"]) == ("invalid-input", "line 4")
    bad = await operator_at.counts(given=file(f"{any_key()}\teu\teu-2\t1\tactive", "x"))
    assert (bad["code"], bad["where"]) == ("invalid-input", "line 3")


async def test_where_a_second_zone_is_required_nothing_is_imported_without_one(
    directory: RunningDirectory, operator_at: Operator
) -> None:
    key = any_key()
    line = f"{key}\teu\teu-2\t7\tactive"
    for wish, status in (("required", b"no synchronous standby"), ("perhaps", b"neither required nor absent")):
        refused = await operator_at.pin("import", given=file(line), DOMICILE_SECOND_ZONE=wish)
        assert refused.returncode == 1
        assert status in refused.stderr, refused
    assert (await directory.app.resolve([key])).unknown == [key]
    done = await operator_at.pin("import", given=file(line), DOMICILE_SECOND_ZONE="absent")
    assert done.returncode == 0


async def test_readers_hear_of_what_is_imported(
    directory: RunningDirectory, operator_at: Operator, database: asyncpg.Connection
) -> None:
    before = await database.fetchval("SELECT sequence FROM directory.clock")
    lines = [f"{any_key()}\teu\teu-1\t1\tactive" for _ in range(20_000)]
    assert (await operator_at.counts(given=file(*lines)))["inserted"] == 20_000
    assert await database.fetchval("SELECT sequence FROM directory.clock") == before + 20_000
    assert await database.fetchval("SELECT count(*) FROM directory.changes WHERE sequence > $1", before) == 20_000
    assert (await directory.app.claim(any_key(), ClaimRequest(residence="DE"))).epoch == 1


async def test_a_command_without_its_settings_says_which(operator_at: Operator) -> None:
    refused = await operator_at.pin("import", DOMICILE_STORAGE="")
    assert refused.returncode == 1
    assert b"DOMICILE_STORAGE: is not set" in refused.stderr
    missing = await operator_at.pin("import", "no-such-file.tsv")
    assert (missing.returncode, b"no-such-file.tsv: no such file" in missing.stderr) == (1, True)


@pytest.mark.parametrize(
    ("command", "setting", "value", "said"),
    [
        ("export", "DOMICILE_STORAGE", "nowhere", "DOMICILE_STORAGE: is not host:port"),
        ("export", "DOMICILE_STORAGE", "127.0.0.1:1", "127.0.0.1:1: cannot be opened (ConnectionRefusedError)"),
        ("replicas", "DOMICILE_DIRECTORY", ",", "DOMICILE_DIRECTORY: is not host:port"),
        ("reconcile", "DOMICILE_DIRECTORY", "a.example", "DOMICILE_DIRECTORY: is not host:port"),
    ],
)
async def test_a_wrong_address_is_one_line(
    operator_at: Operator, command: str, setting: str, value: str, said: str
) -> None:
    refused = await operator_at.pin(command, given=b"", **{setting: value})
    assert refused.returncode == 1
    assert refused.stderr.decode().startswith(f"domicile pin {command}: {said}")
    assert refused.stderr.count(b"\n") == 1
    assert json.loads((await operator_at.pin(command, "--json", given=b"", **{setting: value})).stdout)["ok"] is False


async def test_who_interrupts_an_import_is_not_told_that_nothing_is_changed(
    operator_at: Operator, database: asyncpg.Connection
) -> None:
    """It may be at its COMMIT, which is let go and not undone."""
    async with database.transaction():
        await database.execute("SELECT pg_advisory_xact_lock($1)", 0x646F6D69)  # another import is under way
        child = operator_at.begin("import", "--json")

        async def waits() -> bool:
            return bool(await database.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

        await until(waits, "the import to wait")
        child.send_signal(signal.SIGINT)
        out, err = await asyncio.to_thread(child.communicate, b"", 30)
    assert child.returncode == 130, err
    told = json.loads(out)
    assert (told["ok"], told["code"]) == (False, "interrupted")
    assert "run it again" in told["error"]


async def test_how_a_reconciliation_stands_is_told(operator_at: Operator, directory: RunningDirectory) -> None:
    done = await operator_at.pin("reconcile", "--json", DOMICILE_DIRECTORY=directory.address)
    assert done.returncode == 0, done
    assert json.loads(done.stdout)["ok"] is True
