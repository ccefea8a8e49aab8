"""A release from eu to us, gateway to gateway, over two real databases: what arrives, and everything that must not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import date
from itertools import count
from pathlib import Path

import pytest
import pytest_asyncio
from domicile_testing import Storage, Trust
from domicile_testing.border import PLANS, Cells, bordering
from domicile_testing.cell import superuser
from domicile_testing.conditions import until_true
from typer.testing import Result

from domicile.cells.border.api import ARRIVALS, RELEASES
from domicile.cells.border.signing import sign
from domicile.cells.border.wire import Arrival, Page, ReleaseManifest, Releases, SignedManifest
from domicile.model import Conflict, Forbidden, InvalidInput, NotFound, Role, TokenInvalid
from domicile.sample import Note, Profile
from domicile.sdk.store import apply_schema

pytestmark = pytest.mark.asyncio(loop_scope="module")

PEOPLE = 30
DECLARATION = """
name: {name}
to: {{jurisdiction: us, cell: us-1}}
purpose: analytics:plans
source: {{records: profiles}}
columns:
  plan: {{treatment: shareable}}
  born: {{treatment: date, to: decade}}
  email: {{treatment: pseudonym}}
  user: {{treatment: drop}}
quasi_identifiers: [plan, born]
k: 3
max_suppressed: 0.4
"""
GROUPS = """
name: {name}
to: {{jurisdiction: us, cell: us-1}}
purpose: analytics:plans
source:
  sql: SELECT plan, count(*) AS people, min(born) AS oldest FROM profiles GROUP BY plan
columns:
  plan: {{treatment: shareable}}
  people: {{treatment: shareable}}
  oldest: {{treatment: date, to: decade}}
quasi_identifiers: [plan]
not_identifiers: [people, oldest]
k: 3
max_suppressed: 0.5
"""
_NUMBERS = count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cells(trust: Trust, eu: Storage, us: Storage) -> AsyncIterator[Cells]:
    async with superuser(eu) as home, superuser(us) as abroad:
        await apply_schema(home, "eu-1", "eu", [Profile, Note])
        await apply_schema(abroad, "us-1", "us", [Profile, Note])
        async with bordering(trust, eu, us, {"eu-1": home, "us-1": abroad}) as running:
            await running.forget()  # keys are in memory, and another test's rows open under none of these
            for number in range(PEOPLE):
                await running.sign_up(number, plan=PLANS[number % 3], born=date(1960 + 10 * (number % 2), 1, 1))
            yield running


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def _as_before(cells: Cells) -> AsyncIterator[None]:
    """Whoever a test brings is gone behind it, and both gateways run."""
    there = await cells.subjects()
    yield
    await cells.forget(there)
    for cell in ("eu-1", "us-1"):
        if cell not in cells.running:
            await cells.start(cell)


@pytest.fixture
def name() -> str:
    return f"plans-{next(_NUMBERS)}"


def said(lines: list[str], name: str) -> list[dict[str, object]]:
    found = [json.loads(line) for line in lines]
    return [line for line in found if line["kind"] == "release" and f"/{name}/" in line["detail"].get("release", "")]


async def test_a_release_arrives_with_its_lines_on_both_ledgers(cells: Cells, name: str) -> None:
    await cells.declare(DECLARATION.format(name=name))
    done = await cells.run(name)
    assert (done.state, done.reason, done.revision) == ("accepted", "", 1)
    assert (done.rows, done.suppressed, done.k) == (PEOPLE, 0, 5)
    there = await cells.rows(done.id)
    assert there.columns == ["plan", "born", "email"]
    assert {row[0] for row in there.rows} == set(PLANS)
    assert {row[1] for row in there.rows} == {"1960s", "1970s"}
    assert len({row[2] for row in there.rows}) == PEOPLE
    home, abroad = said(await cells.ledger("eu-1"), name), said(await cells.ledger("us-1"), name)
    assert len(home) == len(abroad) == 1
    for line in (home[0], abroad[0]):
        assert (line["source"], line["destination"], line["outcome"]) == ("eu", "us", "passed")
        assert line["decision_id"] == done.id
        assert line["counts"] == {"rows": PEOPLE, "suppressed": 0, "pages": 1}
        assert line["purpose"] == "analytics:plans"
    assert home[0]["bytes"] == abroad[0]["bytes"]
    kept = await cells.roots["eu-1"].fetch("SELECT * FROM domicile.release_pages WHERE name = $1", name)
    assert kept == [], "pages are not kept once they have arrived"
    purposes = await cells.roots["eu-1"].fetch("SELECT purpose FROM domicile.cell_sessions")
    assert f"release:{name}" in [row[0] for row in purposes]


async def test_nothing_personal_rests_on_the_other_side(cells: Cells, name: str) -> None:
    """In no file of the receiving cell's database, log and write-ahead log among them; what was released is there."""
    await cells.declare(DECLARATION.format(name=name))
    done = await cells.run(name)
    pseudonym = str((await cells.rows(done.id)).rows[0][2])
    await cells.roots["us-1"].execute("CHECKPOINT")
    keys = [bytes(row[0]) for row in await cells.roots["eu-1"].fetch("SELECT subject_key FROM domicile.fences")]
    needles = [email.encode() for email in cells.emails] + [key.hex().encode() for key in keys] + keys
    looked = found = 0
    for path in cells.storages["us-1"].folder.rglob("*"):
        if path.is_file():
            raw = path.read_bytes()
            looked += 1
            found += pseudonym.encode() in raw
            assert not [needle for needle in needles if needle in raw], path.name
    assert looked > 100
    assert found, "what was released is found by the same look"


async def test_aggregates_leave_by_group(cells: Cells, name: str) -> None:
    await cells.sign_up(99, plan="rare", born=date(1990, 1, 1))
    checked = await cells.declare(GROUPS.format(name=name))
    assert checked.grouped
    done = await cells.run(name)
    assert (done.state, done.reason) == ("accepted", "")
    there = await cells.rows(done.id)
    assert sorted(map(tuple, there.rows)) == [("free", 10, "1960s"), ("pro", 10, "1960s"), ("team", 10, "1960s")]
    assert done.suppressed == 1, "the group of one"


async def test_one_revision_is_one_release(cells: Cells, name: str) -> None:
    await cells.declare(DECLARATION.format(name=name))
    first = await cells.run(name, 1)
    await cells.sign_up(77, plan="pro", born=date(1960, 1, 1))
    again = await cells.run(name, 1)
    assert again == first
    assert len(said(await cells.ledger("us-1"), name)) == 1
    following = await cells.run(name)
    assert (following.revision, following.state) == (2, "accepted")
    assert following.rows == PEOPLE, "one newcomer would be found by the difference"
    assert following.suppressed == 1


async def test_an_intersection_of_two_releases_is_refused(cells: Cells, name: str) -> None:
    await cells.declare(DECLARATION.format(name=name))
    assert (await cells.run(name)).state == "accepted"
    topics = DECLARATION.format(name=f"{name}-t").replace("source: {records: profiles}", (
        f"lineage: {name}\nsource:\n  sql: SELECT topic FROM notes"
    ))  # fmt: skip
    topics = topics.split("columns:")[0] + (
        "columns:\n  topic: {treatment: shareable}\nquasi_identifiers: [topic]\nk: 3\nmax_suppressed: 0.1\n"
    )
    await cells.unlocked("UPDATE notes SET topic = 'rare' WHERE ctid IN (SELECT ctid FROM notes ORDER BY id LIMIT 7)")
    await cells.declare(topics)
    done = await cells.run(f"{name}-t")
    assert done.state == "refused"
    assert "earlier releases of the lineage" in done.reason
    alone = topics.replace(f"lineage: {name}\n", "").replace(f"{name}-t", f"{name}-alone")
    await cells.declare(alone)
    assert (await cells.run(f"{name}-alone")).state == "accepted", "by itself it would have passed"
    await cells.unlocked("UPDATE notes SET topic = 'general'")


async def test_another_declaration_does_not_leave_its_lineage_nor_its_k(cells: Cells, name: str) -> None:
    """The same name with another lineage is refused when declared; a lower k is held to the first one's."""
    text = DECLARATION.format(name=name).replace("k: 3", "k: 5")
    await cells.declare(text)
    assert (await cells.run(name)).state == "accepted"
    with pytest.raises(InvalidInput, match=f"{name} was released in the lineage {name} before"):
        await cells.declare(f"{text}\nlineage: elsewhere\n")
    finer = DECLARATION.format(name=f"{name}-finer").replace("k: 3", f"k: 2\nlineage: {name}")
    two = "SELECT ctid FROM profiles WHERE plan = 'free' AND born = '1960-01-01' LIMIT 2"
    await cells.unlocked(f"UPDATE profiles SET plan = 'rare' WHERE ctid IN ({two})")
    try:
        await cells.declare(finer)
        done = await cells.run(f"{name}-finer")
    finally:
        await cells.unlocked("UPDATE profiles SET plan = 'free' WHERE plan = 'rare'")
    assert (done.state, done.rows, done.suppressed) == ("accepted", PEOPLE - 5, 5), "two of five would be told apart"
    assert "rare" not in {row[0] for row in (await cells.rows(done.id)).rows}


async def test_a_personal_value_in_a_shareable_text_stops_it(cells: Cells, name: str) -> None:
    await cells.sign_up(50, plan="pro", born=date(1960, 1, 1), topic="ask hans.stray@mail.example")
    text = DECLARATION.format(name=name).split("source:")[0] + (
        "source: {records: notes}\ncolumns:\n  topic: {treatment: shareable}\n"
        "quasi_identifiers: []\nnot_identifiers: [topic]\nk: 3\n"
    )
    await cells.declare(text)
    done = await cells.run(name)
    assert done.state == "refused"
    assert "topic: a value that looks personal (email)" in done.reason
    assert "hans" not in done.reason
    (line,) = said(await cells.ledger("eu-1"), name)
    assert line["outcome"] == "refused"
    assert line["detail"] == {"release": f"eu-1/{name}/1", "code": "forbidden", "where": "topic"}
    assert not said(await cells.ledger("us-1"), name)
    assert "hans" not in "".join(await cells.ledger("eu-1"))


async def test_a_column_that_was_renamed_stays_what_it_was(cells: Cells, name: str) -> None:
    """By the class that is recorded: in the export's words, in SQL, and in the database itself."""
    text = DECLARATION.format(name=name)
    head, _, rest = text.partition("source:")
    renamed = f"{head}source: {{sql: SELECT born AS tier FROM profiles}}\ncolumns: {{tier: {{treatment: shareable}}}}\n"
    for harmless in (
        text.replace("born: {treatment: date, to: decade}", "born: {treatment: shareable}"),
        f"{renamed}quasi_identifiers: [tier]\n{rest[rest.index('k: ') :]}",
    ):
        with pytest.raises(InvalidInput, match="a personal column without a treatment"):
            await cells.declare(harmless)
    await cells.declare(text)
    await cells.roots["eu-1"].execute("UPDATE domicile.columns SET class = 'personal' WHERE column_name = 'plan'")
    try:
        done = await cells.run(name)
    finally:
        await cells.roots["eu-1"].execute("UPDATE domicile.columns SET class = 'shareable' WHERE column_name = 'plan'")
    assert done.state == "refused"
    assert "columns.plan: a personal column without a treatment" in done.reason


async def test_it_goes_on_where_it_was_when_the_receiver_comes_back(cells: Cells, name: str) -> None:
    await cells.stop("us-1")
    await cells.declare(DECLARATION.format(name=name))
    begun = await cells.begin(name)

    async def waiting() -> bool:
        return (await cells.status(name, begun.revision)).state == "sending"

    await until_true(waiting)
    made = (await cells.status(name, begun.revision)).id
    await cells.stop("eu-1")
    await cells.start("us-1")
    await cells.start("eu-1")
    done = await cells.run(name, begun.revision)
    assert (done.state, done.id) == ("accepted", made), "the same to the byte, by another process"
    assert len(said(await cells.ledger("eu-1"), name)) == 1


async def test_nothing_leaves_that_the_ledger_does_not_take(cells: Cells, name: str) -> None:
    root = cells.roots["eu-1"]
    await cells.declare(DECLARATION.format(name=name))
    await root.execute("ALTER ROLE domicile_ledger CONNECTION LIMIT 0")
    await root.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'domicile_ledger'")
    try:
        begun = await cells.begin(name)

        async def made() -> bool:
            return (await cells.status(name, begun.revision)).state != "building"

        await until_true(made)
        assert (await cells.status(name, begun.revision)).state == "ready"
        assert (await cells.all("us-1")).arrived == [
            each for each in (await cells.all("us-1")).arrived if each.name != name
        ]
    finally:
        await root.execute("ALTER ROLE domicile_ledger CONNECTION LIMIT -1")
    assert (await cells.run(name, begun.revision)).state == "accepted"


# -- who may not ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jurisdiction", "role", "who"),
    [("us", Role.OPERATOR, "iad"), ("global", Role.OPERATOR, "fra"), ("eu", Role.APP, "eu-1.fra"),
     ("us", Role.GATEWAY, "us-1.iad"), ("eu", Role.GATEWAY, "eu-1.fra")],
)  # fmt: skip
async def test_only_an_operator_at_home_releases(cells: Cells, jurisdiction: str, role: Role, who: str) -> None:
    async with cells.asking("eu-1", jurisdiction, role, who) as peer:
        for method, path in (
            ("GET", RELEASES),
            ("POST", RELEASES),
            ("POST", f"{RELEASES}/check"),
            ("POST", f"{RELEASES}/plans/revisions"),
            ("GET", f"{RELEASES}/plans/revisions/1"),
            ("GET", f"{ARRIVALS}/{'0' * 64}/rows"),
        ):
            with pytest.raises(Forbidden):
                await peer.ask(Releases, method, path)


@pytest.mark.parametrize(
    ("jurisdiction", "role", "who"),
    [("eu", Role.OPERATOR, "fra"), ("us", Role.OPERATOR, "iad"), ("eu", Role.APP, "eu-1.fra")],
)
async def test_only_a_gateway_offers(cells: Cells, jurisdiction: str, role: Role, who: str) -> None:
    async with cells.asking("us-1", jurisdiction, role, who) as peer:
        for method, path in (
            ("PUT", f"{ARRIVALS}/{'0' * 64}"),
            ("PUT", f"{ARRIVALS}/{'0' * 64}/pages/0"),
            ("POST", f"{ARRIVALS}/{'0' * 64}/accept"),
        ):
            with pytest.raises(Forbidden):
                await peer.ask(Arrival, method, path)


# -- a tampered sender, a tampered receiver ------------------------------------------------------------------------


async def signed(cells: Cells, name: str) -> tuple[SignedManifest, list[str]]:
    """A release that was made and has not left."""
    await cells.stop("us-1")
    await cells.declare(DECLARATION.format(name=name))
    begun = await cells.begin(name)

    async def made() -> bool:
        return (await cells.status(name, begun.revision)).state in ("ready", "sending")

    await until_true(made)
    await cells.stop("eu-1")
    root = cells.roots["eu-1"]
    row = await root.fetchrow("SELECT manifest, certificate, signature FROM domicile.releases WHERE name = $1", name)
    pages = await root.fetch("SELECT body FROM domicile.release_pages WHERE name = $1 ORDER BY number", name)
    await root.execute("UPDATE domicile.releases SET state = 'refused' WHERE name = $1", name)
    await cells.start("us-1")
    assert row is not None
    return SignedManifest(text=row[0], certificate=row[1], signature=row[2]), [page[0] for page in pages]


async def test_a_tampered_sender_is_refused(cells: Cells, name: str) -> None:
    genuine, pages = await signed(cells, name)
    manifest = ReleaseManifest.model_validate_json(genuine.text)
    own = cells.trust.credentials("eu", Role.GATEWAY, "eu-1.fra")

    def changed(**more: object) -> str:
        return manifest.model_copy(update=more).model_dump_json()

    def by_own(text: str) -> SignedManifest:
        return sign(text, own)

    wrong: list[Callable[[], SignedManifest]] = [
        lambda: genuine.model_copy(update={"text": changed(k=100)}),
        lambda: sign(genuine.text, cells.trust.credentials("us", Role.GATEWAY, "us-1.iad")),
        lambda: sign(genuine.text, cells.trust.credentials("eu", Role.APP, "eu-1.fra")),
        lambda: sign(genuine.text, own, receipt=True),
        lambda: by_own(changed(k=2, least=3)),
        lambda: by_own(changed(destination="eu")),
        lambda: by_own(changed(to_cell="us-2")),
        lambda: by_own(changed(cell="eu-2")),
        lambda: by_own(changed(deployment="other")),
        lambda: by_own(changed(digest="0" * 64)),
        lambda: by_own(changed(made_at=2**40)),
        lambda: by_own("{}"),
    ]
    for make in wrong:
        with pytest.raises((TokenInvalid, Forbidden)):
            await cells.offer(make())
    assert not [each for each in (await cells.all("us-1")).arrived if each.name == name]
    with pytest.raises(Forbidden):
        await cells.offer(genuine, name="eu-2.par")
    refused = [json.loads(line) for line in await cells.ledger("us-1")]
    assert len([each for each in refused if each["outcome"] == "refused" and each["kind"] == "release"]) >= len(wrong)
    await cells.offer(genuine)
    async with cells.asking("us-1", "eu", Role.GATEWAY, "eu-1.fra") as peer:
        where = f"{ARRIVALS}/{genuine.id}"
        with pytest.raises(Conflict, match="pages are missing"):
            await peer.ask(Arrival, "POST", f"{where}/accept")
        with pytest.raises(Forbidden, match="not signed"):
            await peer.ask(Arrival, "PUT", f"{where}/pages/0", body=Page(body=pages[0].replace("pro", "Pro", 1)))
        with pytest.raises(NotFound):
            await peer.ask(Arrival, "PUT", f"{where}/pages/0", body=Page(body=pages[0]))
    assert not await cells.roots["us-1"].fetch("SELECT FROM releases.arrivals WHERE name = $1", name)


async def test_a_page_that_was_changed_where_it_lay_is_found(cells: Cells, name: str) -> None:
    genuine, pages = await signed(cells, name)
    await cells.offer(genuine)
    async with cells.asking("us-1", "eu", Role.GATEWAY, "eu-1.fra") as peer:
        where = f"{ARRIVALS}/{genuine.id}"
        await peer.ask(Arrival, "PUT", f"{where}/pages/0", body=Page(body=pages[0]))
        await cells.roots["us-1"].execute("UPDATE releases.pages SET body = replace(body, 'pro', 'max')")
        with pytest.raises(Forbidden):
            await peer.ask(Arrival, "POST", f"{where}/accept")
    assert not await cells.roots["us-1"].fetch("SELECT FROM releases.rows WHERE id = $1", genuine.id)


async def test_another_release_of_the_same_name_and_revision_is_refused(cells: Cells, name: str) -> None:
    genuine, _ = await signed(cells, name)
    await cells.offer(genuine)
    other = ReleaseManifest.model_validate_json(genuine.text).model_copy(update={"purpose": "another"})
    with pytest.raises(Conflict):
        await cells.offer(sign(other.model_dump_json(), cells.trust.credentials("eu", Role.GATEWAY, "eu-1.fra")))


async def test_a_receiver_that_forges_a_receipt_is_refused(cells: Cells, name: str) -> None:
    """It says that it has all of it, by a receipt that another gateway signed, or for another release."""
    genuine, _ = await signed(cells, name)
    await cells.offer(genuine)
    forged = json.dumps({"accepted": genuine.id, "digest": "0" * 64, "rows": 1, "deployment": "acme",
                         "jurisdiction": "us", "cell": "us-1"})  # fmt: skip
    own = cells.trust.credentials("us", Role.GATEWAY, "us-1.iad")
    await cells.roots["us-1"].execute(
        "UPDATE releases.arrivals SET state = 'accepted', receipt = $2 WHERE id = $1",
        genuine.id, sign(forged, own, receipt=True).model_dump_json(),
    )  # fmt: skip
    await cells.roots["eu-1"].execute("UPDATE domicile.releases SET state = 'sending' WHERE name = $1", name)
    await cells.start("eu-1")
    done = await cells.run(name, 1)
    assert done.state == "refused"
    assert "a receipt for something else" in done.reason


async def test_what_is_too_much_to_be_held_is_refused(cells: Cells, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("domicile.cells.border.home.MAX_ROWS", PEOPLE - 1)
    monkeypatch.setattr("domicile.cells.border.home.MAX_PEOPLE", PEOPLE - 1)
    for text, told in ((DECLARATION, "more than 29 rows"), (GROUPS, "groups of more than 29 subjects")):
        kind = f"{name}-{len(told)}"
        await cells.declare(text.format(name=kind))
        done = await cells.run(kind)
        assert done.state == "refused"
        assert told in done.reason
        (line,) = said(await cells.ledger("eu-1"), kind)
        assert line["outcome"] == "refused"


async def test_bad_requests_are_told(cells: Cells) -> None:
    with pytest.raises(NotFound, match="no such declaration"):
        await cells.begin("nothing")
    with pytest.raises(NotFound, match="no such release"):
        await cells.status("nothing", 1)
    for path in (f"{RELEASES}/No%20Name/revisions/1", f"{RELEASES}/plans/revisions/x"):
        with pytest.raises(InvalidInput):
            await cells.ask("eu-1", Releases, "GET", path)
    with pytest.raises(InvalidInput):
        await cells.declare(DECLARATION.format(name="x").replace("us-1", "us-9"))


async def test_two_gateways_make_one_release(cells: Cells, name: str) -> None:
    """What is begun by two at once is one release, whoever of them is first."""
    await cells.declare(DECLARATION.format(name=name))
    found = await asyncio.gather(*(cells.run(name, 1) for _ in range(3)))
    assert len({each.id for each in found}) == 1
    assert len(said(await cells.ledger("us-1"), name)) == 1


async def test_an_operator_does_it_by_commands(cells: Cells, name: str, tmp_path: Path) -> None:
    file = tmp_path / "plans.yaml"
    file.write_text(DECLARATION.format(name=name))

    async def command(*arguments: str, jurisdiction: str = "eu", cell: str = "eu-1") -> Result:
        return await cells.command("release", *arguments, "--cell", cell, jurisdiction=jurisdiction)

    for verb in ("check", "declare"):
        done = await command(verb, str(file), "--json")
        assert (done.exit_code, json.loads(done.stdout)["dropped"]) == (0, ["user"])
    done = await command("run", name, "--json")
    told = json.loads(done.stdout)
    assert (done.exit_code, told["ok"], told["state"], told["rows"]) == (0, True, "accepted", PEOPLE)
    done = await command("show", name, "1")
    assert "accepted" in done.stdout
    done = await command("list")
    assert told["id"][:16] in done.stdout
    done = await command("rows", told["id"], jurisdiction="us", cell="us-1")
    assert [set(json.loads(line)) for line in done.stdout.splitlines()] == [{"plan", "born", "email"}] * PEOPLE
    file.write_text("name: [")
    done = await command("check", str(file), "--json")
    assert (done.exit_code, json.loads(done.stdout)["code"]) == (1, "invalid-input")
    done = await command("list", cell="us-1")
    assert done.exit_code == 1
    assert "no cell us-1 of eu" in done.stderr
