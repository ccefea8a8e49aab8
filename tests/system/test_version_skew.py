"""One release's parts beside another's: each part of the release before in a world of today, and the reverse.

The release before is a commit of this repository, archived into a folder of its own and put before the installed
sources for the processes of one role (``PYTHONPATH``). Whoever makes a release moves ``PREVIOUS`` to it.
"""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import psutil
import pytest
from domicile_testing.conditions import until_true
from domicile_testing.long import MINUTES
from domicile_testing.worlds import LocalWorld, clean_environment, processes_of

from domicile.model import Manifest
from domicile.ops.demo.cast import Person, person
from domicile.ops.demo.client import Browser
from domicile.ops.layout import Layout
from domicile.ops.manifests import load_file

PREVIOUS = "500aa78d65d2324bb0c69ddcc13ec91a3bdd10f4"
ROOMS = ("core", "sdk", "directory", "router", "cells", "ops")
ROLES = ("directory", "keys", "gateway", "app", "router")
"""In the order of docs/upgrade.md."""
HERE = Path(__file__).parents[2]
pytestmark = [MINUTES, pytest.mark.system, pytest.mark.full, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its sources."""
    rooms = [f"{room}/src" for room in ROOMS]
    found = subprocess.run(["git", "-C", str(HERE), "archive", PREVIOUS, *rooms], capture_output=True, check=False)
    if found.returncode != 0:
        pytest.skip(f"the history has no {PREVIOUS}, the release before: a clone with its history has")
    folder = tmp_path_factory.mktemp("previous")
    with tarfile.open(fileobj=io.BytesIO(found.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def path_of(sources: Path) -> str:
    return ":".join(str(sources / room / "src") for room in ROOMS)


def ran(sources: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "domicile.ops.main", *arguments],
        env=clean_environment() | {"PYTHONPATH": path_of(sources)},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr


@contextmanager
def world_of(sources: Path, state: Path) -> Iterator[LocalWorld]:
    ran(sources, "up", "--detach", "--state", str(state))
    try:
        yield LocalWorld(state)
    finally:
        ran(sources, "down", "--state", str(state))
        assert processes_of(state) == []


@contextmanager
def taken_over(world: LocalWorld, role: str, sources: Path, before: Path) -> Iterator[None]:
    """Every process of a role by other sources, with its own name and settings; at the end by those of before again."""
    running = [psutil.Process(each["pid"]) for each in world.record()["processes"] if each["role"] == role]
    assert running
    told = [(process.cmdline(), process.environ()) for process in running]
    replaced: list[subprocess.Popen[bytes]] = []

    def start(each: Path) -> list[subprocess.Popen[bytes]]:
        return [
            subprocess.Popen(command, env=environment | {"PYTHONPATH": path_of(each)}, stderr=subprocess.DEVNULL)
            for command, environment in told
        ]

    def end(some: Sequence[subprocess.Popen[bytes] | psutil.Process]) -> None:
        for process in some:
            process.terminate()
        for process in some:
            process.wait(30)

    end(running)
    try:
        replaced = start(sources)
        yield
        end(replaced)
        replaced = start(before)
        _STAYED.extend(replaced)
        replaced = []
    finally:
        end(replaced)


_STAYED: list[subprocess.Popen[bytes]] = []
"""Started again by those of before; they end with their test."""


@pytest.fixture(autouse=True)
def nobody_stays() -> Iterator[None]:
    yield
    for process in _STAYED:
        process.kill()
        process.wait()
    _STAYED.clear()


class Story:
    """What a product does: sign up, log in, write, read, travel, and be looked at from abroad."""

    def __init__(self, manifest: Manifest, client: Browser, secret: str) -> None:
        self._client = client
        self._secret = secret
        self._routers = {name: next(iter(manifest.routers_of(name).values())).public for name in ("eu", "us")}
        self.known: list[tuple[Person, str]] = []

    async def ready(self) -> bool:
        """Whether somebody new is served; who is, is asked for again in the stories after it."""
        for country in ("DE", "US"):
            who = person(country, "", "Dora", residence=country)
            try:
                answer = await self._client.send("POST", self._at(country), "/signup", body=who.sign_up())
            except (aiohttp.ClientError, OSError, TimeoutError):
                return False
            if answer.status != 201:
                return False
            self.known.append((who, answer.body["session"]))
        return True

    def _at(self, country: str) -> str:
        return self._routers["eu" if country == "DE" else "us"]

    async def told(self, when: str) -> None:
        await until_true(self.ready, seconds=45)
        for who, session in (*self.known[:2], *self.known[-2:]):
            at = self._at(who.country)
            login = {"email": who.email, "password": who.password}
            again = await self._client.send("POST", at, "/login", body=login)
            assert again.status == 200, (when, again.reason)
            wrote = await self._client.send("POST", at, "/notes", body={"text": when}, session=session)
            assert wrote.status == 201, (when, wrote.reason)
            profile = await self._client.send("GET", at, "/profile", session=again.body["session"])
            assert (profile.status, profile.body["email"]) == (200, who.email), when
            notes = await self._client.send("GET", at, "/notes", session=session)
            assert when in [note["text"] for note in notes.body["items"]], when
        american, session = self.known[1]
        abroad = await self._client.send("GET", self._routers["eu"], "/profile", session=session)
        assert (abroad.status, abroad.body["email"]) == (200, american.email), f"{when}: hairpin"
        european, _ = self.known[0]
        desk = {"Authorization": f"Support {self._secret}"}
        seen = await self._client.send(
            "POST", self._routers["us"], "/support/profile", body={"user": european.user}, headers=desk
        )
        assert (seen.status, seen.body["email"]) == (200, {"withheld": "user.contact.email"}), f"{when}: {seen.reason}"


async def told(world: LocalWorld, swaps: Sequence[tuple[str, Path]], before: Path) -> None:
    manifest = load_file(world.state / "domicile.yaml")
    secret = (world.state / "cells" / "us-1" / "iad" / "app" / "support.key").read_text()
    async with Browser(manifest, Layout(world.state)) as client:
        story = Story(manifest, client, secret)
        await story.told("all of one release")
        for role, sources in swaps:
            with taken_over(world, role, sources, before):
                await story.told(f"{role} of the other release")
        await story.told("all of one release again")


@pytest.mark.parametrize(
    "older", [True, False], ids=["each part of before in today's", "each part of today in before's"]
)
def test_two_releases_beside_each_other(previous: Path, tmp_path: Path, older: bool) -> None:
    world, other = (HERE, previous) if older else (previous, HERE)
    with world_of(world, tmp_path / "s") as running:
        asyncio.run(told(running, [(role, other) for role in ROLES], world))


def test_a_part_that_does_not_understand_the_others_is_found_out(previous: Path, tmp_path: Path) -> None:
    """A directory that answers under another path, as one would that forgot those who ask it by the one of before."""
    routes = previous / "directory" / "src" / "domicile" / "directory" / "routes.py"
    text = routes.read_text()
    routes.write_text(text.replace('"/v1/aliases/', '"/v2/aliases/'))
    try:
        with world_of(HERE, tmp_path / "s") as running, pytest.raises((AssertionError, TimeoutError)):
            asyncio.run(told(running, [("directory", previous)], HERE))
    finally:
        routes.write_text(text)
