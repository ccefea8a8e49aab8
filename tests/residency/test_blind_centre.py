"""The directory cannot tell whose a subject key is: neither its process nor its files hold the pepper.

And of somebody who was erased nobody can tell more: that is tried here, since it takes such a world, too.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import psutil
import pytest
from domicile_testing.databases import until
from domicile_testing.memory import found_in_memory
from domicile_testing.worlds import LocalWorld, domicile, running_world

from domicile.identity import Credentials
from domicile.model import Address, Peppers, Role
from domicile.ops.demo.cast import cast
from domicile.ops.demo.client import Browser
from domicile.ops.layout import Layout
from domicile.ops.manifests import load_file
from domicile.ops.scan import Scanner, byte_forms, files_below, needles_for_value

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("blind")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalWorld]:
    """It has worked: people are pinned, and their aliases are kept."""
    with running_world(tmp_path_factory.mktemp("blind") / "s") as running:
        asyncio.run(_sign_up(running))
        yield running


async def _sign_up(world: LocalWorld) -> None:
    manifest = load_file(world.state / "domicile.yaml")
    async with Browser(manifest, Layout.at(world.state)) as browser:
        for who in cast()[:3]:
            answer, _ = await browser.follow(
                "POST", manifest.routers["fra"].public, "/signup", body=who.sign_up(), address=who.address
            )
            assert answer.status == 201, answer


def test_its_files_hold_no_pepper(world: LocalWorld) -> None:
    _, _, secret = (world.state / "secrets" / "pepper").read_text().strip().partition(":")
    raw = bytes.fromhex(secret)
    scanner = Scanner(needles_for_value("pepper", secret))
    report = scanner.scan(files_below(world.state / "directory"))
    assert report.files > 100
    assert (report.hits, report.unread) == ([], [])
    for path in files_below(world.state / "directory"):
        content = path.read_bytes()
        assert raw not in content, path
        assert base64.b64encode(raw) not in content, path


def pepper_forms(world: LocalWorld) -> dict[bytes, str]:
    """The pepper as its file has it, as a process uses it, and as it might be written down."""
    _, _, secret = (world.state / "secrets" / "pepper").read_text().strip().partition(":")
    raw = bytes.fromhex(secret)
    return {form: encoding for encoding, form in byte_forms(raw)} | {raw: "raw"}


def test_its_memory_holds_no_pepper(world: LocalWorld) -> None:
    """The same search finds it in a router and in an application, which use it."""
    if not Path("/proc/self/mem").exists():
        pytest.skip("no /proc to read memory from")
    forms = pepper_forms(world)
    pids = world.pids()
    try:
        for name in ("router-fra", "eu-1-app"):
            found, _ = found_in_memory(pids[name], forms)
            assert "raw" in {forms[form] for form in found}, name
    except PermissionError:
        pytest.skip("this user may not read the memory of processes that are not its children (kernel.yama)")
    for name in ("directory", "directory-storage", "directory-postgres"):
        read = 0
        for process in family(pids[name]):
            with suppress(FileNotFoundError, ProcessLookupError):  # a child of the database that has ended
                found, size = found_in_memory(process.pid, forms)
                assert not found, (name, {forms[form] for form in found})
                read += size
        assert read > 10 << 20, name


def test_the_process_list_shows_no_pepper(world: LocalWorld) -> None:
    """Neither as an argument nor in an environment, of any process of the world: also those who may have it."""
    forms = pepper_forms(world)
    processes = {child for pid in world.pids().values() for child in family(pid)}
    assert len(processes) > len(world.pids())
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            shown = "\0".join([*process.cmdline(), *process.environ().values()]).encode()
            assert not [encoding for form, encoding in forms.items() if form in shown], process.name()
    files = {process.environ().get("DOMICILE_PEPPER") for process in family(world.pids()["router-fra"])}
    assert str(world.state / "secrets" / "pepper") in files, "what is shown is where it lies"


def family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def test_its_environment_names_no_pepper(world: LocalWorld) -> None:
    for name in ("directory", "directory-storage", "directory-postgres"):
        environment = psutil.Process(world.pids()[name]).environ()
        assert not [key for key in environment if "PEPPER" in key], name
    assert "DOMICILE_PEPPER" in psutil.Process(world.pids()["router-fra"]).environ()


def test_it_refuses_to_start_with_one(world: LocalWorld) -> None:
    environment = psutil.Process(world.pids()["directory"]).environ()
    command = psutil.Process(world.pids()["directory"]).cmdline()
    refused = subprocess.run(
        command,
        env=os.environ | environment | {"DOMICILE_PEPPER": str(world.state / "secrets" / "pepper")},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert refused.returncode == 1
    assert "pepper" in refused.stderr.lower()


def test_state_folders_of_others_are_not_its_own(world: LocalWorld) -> None:
    """What the directory keeps on disk lies in its own folder and names no cell's private key."""
    assert not list(Path(world.state / "directory").rglob("session.key"))
    assert not list(Path(world.state / "directory").rglob("kek*"))


async def count(world: LocalWorld, jurisdiction: str, storage: str, statement: str, *arguments: object) -> int:
    """What an operator's statement counts in a storage of the world."""
    folder = world.state / "operators" / jurisdiction
    credentials = Credentials(folder / "cert.pem", folder / "key.pem", world.state / "trust" / "authorities")
    address = Address(storage)
    connection = await asyncpg.connect(
        host=address.host, port=address.port, user="postgres", database="domicile",
        ssl=credentials.client(jurisdiction, [Role.STORAGE]),
    )  # fmt: skip
    try:
        found: int = await connection.fetchval(statement, *arguments)
        return found
    finally:
        await connection.close()


@pytest.mark.full
async def test_of_somebody_who_was_erased_a_tombstone_is_left(world: LocalWorld, tmp_path: Path) -> None:
    """Asked for by the operator's command; told by the real router; looked for in every file and table."""
    manifest = load_file(world.state / "domicile.yaml")
    public, user = manifest.routers["fra"].public, f"erased-{uuid4()}"
    told = {"user": user, "email": f"{user}@example.eu", "password": f"pw-{uuid4()}", "born": "1907-03-05"}
    key = Peppers.parse((world.state / "secrets" / "pepper").read_text()).current.subject_key(user)
    file, receipt = tmp_path / "subject.txt", tmp_path / "receipt"
    file.write_text(f"{user}\n")

    def erase(jurisdiction: str) -> tuple[int, dict[str, Any]]:
        options = ["--as", jurisdiction, "--receipt", str(receipt), "--state", str(world.state), "--json"]
        done = domicile("erase", f"@{file}", *options)
        document: dict[str, Any] = json.loads(done.stdout)
        assert user not in done.stdout + done.stderr
        return done.returncode, document

    def process(name: str) -> str:
        address: str = next(each["address"] for each in world.record()["processes"] if each["name"] == name)
        return address

    def check() -> int:
        return domicile("audit", "receipt", str(receipt), "--deployment", manifest.deployment).returncode

    async with Browser(manifest, Layout.at(world.state)) as browser:

        async def sign_up() -> tuple[str, str]:
            body = told | {"plan": "pro", "residence": "DE"}
            answer, _ = await browser.follow("POST", public, "/signup", body=body)
            assert answer.status == 201, answer
            return answer.body["cell"], answer.body["session"]

        cell, session = await sign_up()
        note = {"text": f"a note of {user}", "topic": "general"}
        answer, _ = await browser.follow("POST", public, "/notes", body=note, session=session)
        assert answer.status == 201
        storage = process(f"{cell}-storage")
        rows = (
            "SELECT (SELECT count(*) FROM notes WHERE subject_key = $1)"
            " + (SELECT count(*) FROM profiles WHERE subject_key = $1 OR born = '1907-03-05')"
        )
        assert await count(world, "eu", storage, rows, key) == 2

        status, refused = await asyncio.to_thread(erase, "us")
        assert (status, refused["code"]) == (1, "forbidden")
        for _ in range(2):
            status, said = await asyncio.to_thread(erase, "eu")
            assert (status, said["ok"]) == (0, True)
            deleted = said["deleted"]
            assert (deleted["rows"], deleted["aliases"]) == ({"notes": 1, "profiles": 1}, 1)
        assert await asyncio.to_thread(check) == 0
        signed = receipt.read_text()
        receipt.write_text(signed[:-8] + "AAAAAAAA")
        assert await asyncio.to_thread(check) == 1

        seen: set[int] = set()

        async def gone() -> bool:
            answer = await browser.send("GET", public, "/profile", session=session)
            seen.add(answer.status)
            return answer.status == 404 and answer.body["code"] == "unknown-subject"

        await until(gone, "the router to hear of it")
        assert seen <= {404, 421, 503}
        login = {"email": told["email"], "password": told["password"]}
        assert (await browser.send("POST", public, "/login", body=login)).status == 401

        assert await count(world, "eu", storage, rows, key) == 0
        aliases = "SELECT count(*) FROM directory.aliases WHERE subject_key = $1"
        assert await count(world, "global", process("directory-storage"), aliases, key) == 0
        needles = [needle for name in ("user", "email", "password") for needle in needles_for_value(name, told[name])]
        report = Scanner([*needles, *needles_for_value("note", note["text"])]).scan(files_below(world.state))
        assert report.hits == []
        assert report.files > 100
        planted = Scanner(needles).scan([file])
        assert planted.hits, "the scan finds what is there"

        again, fresh = await sign_up()
        answer = await browser.send("GET", public, "/notes", session=fresh)
        assert (answer.status, answer.body) == (200, {"items": []})
        storage = process(f"{again}-storage")
        epoch = "SELECT epoch FROM domicile.fences WHERE subject_key = $1"
        assert await count(world, "eu", storage, epoch, key) > deleted["tombstone"]
