"""A world comes up whole, and tells of itself what is so."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from domicile_testing.chromium import browser, pin_of, with_chromium
from domicile_testing.databases import wait_for
from domicile_testing.worlds import LocalWorld, domicile, running_world

from domicile.model import Role
from domicile.ops.demo.cast import SECOND_AMERICAN, person
from domicile.ops.demo.client import Browser
from domicile.ops.health import operator
from domicile.ops.layout import Layout
from domicile.ops.manifests import load_file

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("world")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalWorld]:
    with running_world(tmp_path_factory.mktemp("world") / "s") as running:
        yield running


def test_status_names_every_process(world: LocalWorld) -> None:
    code, document = world.status()
    assert (code, document["ok"]) == (0, True)
    rows = {row["name"]: row for row in document["processes"]}
    assert {"directory", "keys-eu", "keys-us", "eu-1-app", "eu-2-gateway", "us-1-postgres", "router-iad"} <= set(rows)
    assert all(row["state"] == "running" for row in rows.values())
    assert set(rows["keys-eu"]) == {"name", "role", "jurisdiction", "zone", "state", "address", "pid", "restarts"}
    assert rows["router-iad"]["jurisdiction"] == "us"
    assert rows["directory"]["jurisdiction"] == "global"


def test_each_jurisdiction_listens_on_its_own_addresses(world: LocalWorld) -> None:
    nets = {"eu": "127.10.", "us": "127.30.", "global": "127.20."}
    for process in world.record()["processes"]:
        if process["role"] != "postgres":
            assert process["address"].startswith(nets[process["jurisdiction"]]), process["name"]


def test_the_databases_listen_on_no_network(world: LocalWorld) -> None:
    for name, pid in world.pids().items():
        if name.endswith("-postgres"):
            assert psutil.Process(pid).net_connections("inet") == [], name


def test_a_second_up_is_refused_and_harms_nothing(world: LocalWorld) -> None:
    before = world.pids()
    second = domicile("up", "--state", str(world.state))
    assert second.returncode == 1
    assert "a world already runs here" in second.stderr
    assert world.pids() == before


def test_apply_of_the_same_topology_makes_no_new_revision(world: LocalWorld) -> None:
    arguments = ("apply", str(world.state / "domicile.yaml"), "--state", str(world.state))
    first, second = domicile(*arguments), domicile(*arguments)
    assert first.returncode == second.returncode == 0, first.stderr
    assert first.stdout == second.stdout == "published as revision 1\n"


@pytest.mark.full
def test_two_worlds_run_beside_each_other(world: LocalWorld, tmp_path: Path) -> None:
    with running_world(tmp_path / "other") as other:
        assert other.status()[0] == 0
        assert world.status()[0] == 0


@with_chromium
@pytest.mark.timeout(120)
async def test_a_browser_signs_up_reads_and_writes(world: LocalWorld, tmp_path: Path) -> None:
    manifest = load_file(world.state / "domicile.yaml")
    places = {
        name: (place.public_host, next(iter(manifest.routers_of(name).values())).public)
        for name, place in manifest.jurisdictions.items()
    }
    pins = [pin_of(path) for path in world.state.rglob("public*.pem")]
    ask = """async (method, path, session, body) => {
        const headers = session ? {Authorization: 'Bearer ' + session} : {};
        const answer = await fetch(path, {method, headers, body: body && JSON.stringify(body), redirect: 'manual'});
        return [answer.status, answer.type, answer.status ? await answer.json() : null];
    }"""
    async with browser(tmp_path / "chromium", dict(places.values()), pins) as page:

        async def asked(method: str, path: str, session: str = "", body: object = None) -> Any:
            return await page.run(f"({ask})({json.dumps(method)}, {json.dumps(path)}, '{session}', {json.dumps(body)})")

        await page.open(f"https://{places['eu'][0]}/about")
        asks = {"user": "chris", "email": "chris@example.org", "password": "correct horse", "plan": "pro"}
        status, _, account = await asked("POST", "/signup", body=asks | {"residence": "DE"})
        assert (status, account["jurisdiction"]) == (201, "eu")
        status, _, profile = await asked("GET", "/profile", account["session"])
        assert (status, profile["email"]) == (200, "chris@example.org")
        assert (await asked("POST", "/notes", account["session"], {"text": "from a browser"}))[0] == 201
        assert (await asked("GET", "/profile"))[0] == 401, "nobody's session is in a cookie"

        await page.open(f"https://{places['us'][0]}/about")  # the traveller is sent home, which a script only hears of
        assert (await asked("GET", "/profile", account["session"]))[:2] == [0, "opaqueredirect"]


def test_killed_processes_are_reported_by_name_within_five_seconds(world: LocalWorld) -> None:
    lost: set[str] = set()
    for name in ("keys-eu", "us-1-postgres", "router-fra"):
        os.kill(world.pids()[name], signal.SIGKILL)
        killed = time.monotonic()
        lost.add(name)
        while True:
            code, document = world.status()
            stopped = {row["name"] for row in document["processes"] if row["state"] == "stopped"}
            if stopped == lost:
                break
            assert time.monotonic() - killed < 5, f"{name} not reported within 5 s"
        assert (code, document["ok"]) == (1, False)
    shown = domicile("status", "--state", str(world.state))
    assert "keys-eu is stopped" in shown.stderr
    back = domicile("restart", *sorted(lost), "--state", str(world.state), "--json")
    assert [done["part"] for done in json.loads(back.stdout)["parts"]] == sorted(lost), back.stderr
    wait_for(lambda: world.status()[0] == 0, "those that had lost them ready again", 60)
    assert {row["name"] for row in world.status()[1]["processes"] if row["restarts"]} == lost


def test_a_process_that_says_nothing_is_told_from_one_that_says_no(world: LocalWorld) -> None:
    process = psutil.Process(world.pids()["router-iad"])
    process.suspend()
    try:
        code, document = world.status()
        shown = domicile("status", "--state", str(world.state))
    finally:
        process.resume()
    assert code == 1
    assert [row["name"] for row in document["processes"] if row["state"] == "silent"] == ["router-iad"]
    assert "router-iad is silent: no word within 5 s" in shown.stderr
    wait_for(lambda: world.status()[0] == 0, "the router's word", 60)


def test_a_part_that_nobody_has_is_not_restarted_nor_are_those_beside_it(world: LocalWorld) -> None:
    before = world.pids()
    refused = domicile("restart", "router-fra", "nonsense", "--state", str(world.state))
    assert refused.returncode == 1
    assert "no part nonsense (`domicile status` names them)" in refused.stderr
    assert world.pids() == before


@pytest.mark.full
@pytest.mark.parametrize("lost", ["keys-us-postgres", "keys-us", "directory"])
async def test_who_is_known_is_served_without_key_store_key_service_or_directory(world: LocalWorld, lost: str) -> None:
    """What docs/availability.md says of their loss: somebody new is told to come again, and can when they are back."""
    layout = Layout(world.state)
    manifest = load_file(world.state / "domicile.yaml")
    router = next(iter(manifest.routers_of("us").values())).public
    async with Browser(manifest, layout) as client:
        known, new = (person("US", *SECOND_AMERICAN) for _ in range(2))
        signed = await client.send("POST", router, "/signup", body=known.sign_up(), address=known.address)
        assert signed.status == 201, signed.reason
        session = signed.body["session"]
        assert (await client.send("GET", router, "/profile", session=session)).status == 200
        os.kill(world.pids()[lost], signal.SIGKILL)
        for _ in range(5):
            assert (await client.send("GET", router, "/profile", session=session)).status == 200
            answer = await client.send("POST", router, "/signup", body=new.sign_up(), address=new.address)
            assert answer.status == 503, answer.reason
            assert int(answer.headers["Retry-After"]) > 0
        back = domicile("restart", lost, "--state", str(world.state))
        assert back.returncode == 0, back.stderr
        wait_for(lambda: world.status()[0] == 0, "who had lost it", 60)
        answer = await client.send("POST", router, "/signup", body=new.sign_up(), address=new.address)
        assert answer.status == 201, answer.reason


@pytest.mark.full
async def test_a_cell_that_is_wholly_down_sends_its_users_nowhere_else(world: LocalWorld) -> None:
    """The last of this module: the cell stays down."""
    layout = Layout(world.state)
    manifest = load_file(world.state / "domicile.yaml")
    american = person("US", *SECOND_AMERICAN)
    async with Browser(manifest, layout) as client:
        router = next(iter(manifest.routers_of("us").values())).public
        signed = await client.send("POST", router, "/signup", body=american.sign_up(), address=american.address)
        assert signed.status == 201, signed.reason
        session = signed.body["session"]
        assert (await client.send("GET", router, "/profile", session=session)).status == 200
        before = {name: await _asked(world, name) for name in ("eu-1-app", "eu-2-app", "eu-1-gateway", "eu-2-gateway")}
        for name, pid in world.pids().items():
            if name.startswith("us-1-"):
                os.kill(pid, signal.SIGKILL)
        for _ in range(20):
            answer = await client.send("GET", router, "/profile", session=session)
            assert answer.status == 503, answer.reason
            assert int(answer.headers["Retry-After"]) > 0
        assert {name: await _asked(world, name) for name in before} == before


async def _asked(world: LocalWorld, name: str) -> list[str]:
    """What a process of ``eu`` counted of requests, but for those that ask for its health and its counters."""
    own = next(process for process in world.record()["processes"] if process["name"] == name)
    context = operator(Layout(world.state)).client("eu", [Role(own["role"])])
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context), trust_env=False) as session,
        session.get(f"https://{own['address']}/metrics") as answer,
    ):
        assert answer.status == 200
        lines = (await answer.text()).splitlines()
    counted = [line for line in lines if line.startswith("domicile_requests_total")]
    return [line for line in counted if "readyz" not in line and "healthz" not in line and "metrics" not in line]
