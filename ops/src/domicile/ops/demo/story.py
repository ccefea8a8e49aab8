"""The story that ``domicile demo`` plays: what must work, what must be refused, and what must not be found.

Each step states what it tried and what it expected before it looks at what happened; a step whose parts
disagree says which. Nothing here knows how the parts do their work: it speaks HTTP and reads files.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import typer

from domicile.identity import Signer
from domicile.model.access import Role
from domicile.model.errors import Unavailable
from domicile.ops.demo.cast import OUTSIDE, Person, cast, person
from domicile.ops.demo.client import Answer, Browser
from domicile.ops.demo.evidence import Evidence
from domicile.ops.demo.forgery import altered, session_for
from domicile.ops.layout import Layout
from domicile.ops.supervise import Reporter, start_world
from domicile.ops.world import World

PATIENCE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the verdict."""

    step: str
    tried: str
    expected: str
    happened: str
    ok: bool

    def document(self) -> dict[str, Any]:
        return asdict(self)


class Story:
    """Plays against one running world and gathers rows."""

    def __init__(self, world: World, browser: Browser, tell: Callable[[Row], None]) -> None:
        self._world = world
        self._browser = browser
        self._tell = tell
        self._people = cast()
        self._sessions: dict[str, str] = {}
        self.rows: list[Row] = []
        routers = world.manifest.routers
        self._hosts = {name: place.public_host for name, place in world.manifest.jurisdictions.items()}
        home = {zone: world.manifest.jurisdiction_of(router.country) or "" for zone, router in routers.items()}
        self._router = {jurisdiction: routers[zone].public for zone, jurisdiction in home.items()}

    def _row(self, step: str, tried: str, expected: str, happened: str, ok: bool | None = None) -> None:
        row = Row(step, tried, expected, happened, expected == happened if ok is None else ok)
        self.rows.append(row)
        self._tell(row)

    def _home(self, who: Person) -> str:
        return self._world.manifest.jurisdiction_of(who.country) or ""

    def _from(self, country: str) -> Person:
        return next(who for who in self._people if who.country == country)

    async def _as(self, who: Person, method: str, router: str, path: str, **options: Any) -> Answer:
        return await self._browser.send(
            method, self._router[router], path, session=self._sessions.get(who.user), address=who.address, **options
        )

    async def play(self) -> None:
        for chapter in (
            self._sign_ups,
            self._nowhere,
            self._log_ins,
            self._daily_life,
            self._travellers,
            self._abroad,
            self._ledger,
            self._forgers,
            self._wrong_label,
            self._outage,
            self._evidence,
        ):
            await chapter()

    # -- people who may ------------------------------------------------------------------------------

    async def _sign_ups(self) -> None:
        for who in self._people:
            near = "us" if who.residence is not None or self._home(who) == "us" else "eu"
            answer, hops = await self._browser.follow(
                "POST", self._router[near], "/signup", body=who.sign_up(), address=who.address
            )
            if answer.status == 201:
                self._sessions[who.user] = answer.body["session"]
            told = f"a resident of {who.country} in New York" if who.residence else f"from an address in {who.country}"
            expected = f"201 in {self._home(who)}" + (" after 1 redirect" if who.residence else "")
            happened = f"{answer.reason} in {answer.body.get('jurisdiction')}" + (
                f" after {hops} redirect" if hops else ""
            )
            self._row("sign-up", told, expected, happened)

    async def _nowhere(self) -> None:
        country, address = OUTSIDE
        stranger = person(country, address, "Haruto Sato")
        answer = await self._browser.send(
            "POST", self._router["us"], "/signup", body=stranger.sign_up(), address=address
        )
        self._row("sign-up", f"from {country}, which no jurisdiction holds", "422 invalid-input", answer.reason)

    async def _log_ins(self) -> None:
        good = 0
        for who in self._people:
            answer = await self._log_in(who, self._home(who))
            good += answer.status == 200 and answer.body.get("jurisdiction") == self._home(who)
        count = len(self._people)
        self._row("log-in", "by e-mail and password alone, at home", f"{count} of {count}", f"{good} of {count}")
        who = self._from("DE")
        answer, hops = await self._browser.follow(
            "POST", self._router["us"], "/login", body={"email": who.email, "password": who.password}
        )
        self._row(
            "log-in",
            "a German by e-mail, in New York",
            "200 after 1 redirect",
            f"{answer.reason} after {hops} redirect",
        )
        answer = await self._browser.send(
            "POST", self._router["eu"], "/login", body={"email": who.email, "password": "guessed"}
        )
        unknown = await self._browser.send(
            "POST", self._router["eu"], "/login", body={"email": f"no.{who.email}", "password": "guessed"}
        )
        same = (answer.status, answer.body) == (unknown.status, unknown.body)
        told = "the same 401 to a wrong password and an unknown e-mail"
        self._row(
            "log-in",
            "at home, with a wrong password and with an unknown e-mail",
            told,
            told if same and answer.status == 401 else f"{answer.reason}, {unknown.reason}",
        )

    async def _log_in(self, who: Person, router: str) -> Answer:
        answer = await self._browser.send(
            "POST",
            self._router[router],
            "/login",
            body={"email": who.email, "password": who.password},
            address=who.address,
        )
        if answer.status == 200:
            self._sessions[who.user] = answer.body["session"]
        return answer

    async def _daily_life(self) -> None:
        written = read = 0
        for who in self._people:
            home = self._home(who)
            answer = await self._as(who, "POST", home, "/notes", body={"text": who.note})
            written += answer.status == 201
            notes = await self._as(who, "GET", home, "/notes")
            profile = await self._as(who, "GET", home, "/profile")
            texts = [note.get("text") for note in notes.body.get("items", [])]
            read += texts == [who.note] and profile.body.get("email") == who.email
        count = len(self._people)
        self._row("write", "a note each, at home", f"{count} of {count}", f"{written} of {count}")
        self._row("read", "the note and the profile back", f"{count} of {count}", f"{read} of {count}")

    async def _travellers(self) -> None:
        who = self._from("DE")
        answer = await self._as(who, "GET", "us", "/profile")
        expected = f"307 to https://{self._hosts['eu']}/profile"
        self._row(
            "traveller",
            "a German in New York (policy: redirect)",
            expected,
            f"{answer.status} to {answer.headers.get('Location')}",
        )
        who = self._from("US")
        answer = await self._as(who, "GET", "eu", "/profile")
        happened = f"{answer.reason} with the e-mail" if answer.body.get("email") == who.email else answer.reason
        self._row("traveller", "an American in Paris (policy: hairpin)", "200 with the e-mail", happened)
        note = await self._as(who, "POST", "eu", "/notes", body={"text": f"{who.note}, in Paris"})
        self._row("traveller", "an American writes a note in Paris", "201", note.reason)

    async def _abroad(self) -> None:
        who = self._from("FR")
        desk = {"Authorization": f"Support {self._support_secret('us-1')}"}
        answer = await self._browser.send(
            "POST", self._router["us"], "/support/profile", body={"user": who.user}, headers=desk
        )
        email = answer.body.get("email")
        withheld = isinstance(email, dict) and email.get("withheld") == "user.contact.email"
        happened = f"plan {answer.body.get('plan')}, e-mail {'withheld' if withheld else 'NOT withheld'}"
        self._row(
            "abroad",
            "a US service reads a French profile",
            "plan pro, e-mail withheld",
            happened if answer.status == 200 else answer.reason,
        )
        answer = await self._browser.send(
            "POST", self._router["us"], "/support/plan", body={"user": who.user, "plan": "free"}, headers=desk
        )
        self._row("abroad", "the same service writes to it", "451 cross-border-access", answer.reason)
        answer = await self._browser.send("POST", self._router["us"], "/support/profile", body={"user": who.user})
        self._row("abroad", "somebody who is not the support desk reads", "401 unauthenticated", answer.reason)
        happened = await Evidence(self._world).write_abroad(who)
        self._row("abroad", "the service's certificate writes by the eu gateway itself", "forbidden", happened)

    async def _ledger(self) -> None:
        happened = await asyncio.to_thread(Evidence(self._world).ledger, "eu", "us")
        self._row(
            "ledger",
            "what crossed from eu to us, by audit show",
            "1 abroad-read passed, 1 abroad-write refused; 2 ledgers as signed",
            happened,
        )

    def _support_secret(self, cell: str) -> str:
        zone = next(iter(self._world.manifest.cells[cell].zones))
        return (self._world.layout.cell(cell, zone) / Role.APP / "support.key").read_text()

    # -- people who may not --------------------------------------------------------------------------

    async def _forgers(self) -> None:
        who = self._from("DE")
        token = await self._token(who)
        genuine = await self._browser.send(
            "GET", self._router["eu"], "/profile", session=self._sessions[who.user], headers={"Domicile-Token": token}
        )
        self._row("token", "the residency token that the router gave, with a session", "200", genuine.reason)
        answer = await self._browser.send(
            "GET", self._router["eu"], "/profile", headers={"Domicile-Token": altered(token)}
        )
        self._row("forgery", "a residency token for another epoch", "401 token-invalid", answer.reason)
        answer = await self._browser.send(
            "GET", self._router["eu"], "/profile", session=altered(self._sessions[who.user])
        )
        self._row("forgery", "a session with an altered subject", "401 token-invalid", answer.reason)
        other = self._from("FR")
        answer = await self._browser.send(
            "GET", self._router["eu"], "/profile", session=self._sessions[other.user], headers={"Domicile-Token": token}
        )
        self._row("forgery", "one's session with another's residency token", "400 identities-disagree", answer.reason)
        answer = await self._browser.send("GET", self._router["eu"], "/profile")
        self._row("nobody", "no proof of identity at all", "401 unauthenticated", answer.reason)
        cell, zone = "eu-1", next(iter(self._world.manifest.cells["eu-1"].zones))
        signer = Signer.load_or_create(self._world.layout.cell(cell, zone) / Role.APP / "session.key")
        unknown = session_for(self._world.manifest, signer, person("DE", who.address, "Nobody Known").user)
        answer = await self._browser.send("GET", self._router["eu"], "/profile", session=unknown)
        self._row("nobody", "a good session of a user without a pin", "404 unknown-subject", answer.reason)

    async def _token(self, who: Person) -> str:
        answer = await self._as(who, "GET", "eu", "/profile")
        cookie = answer.headers.get("Set-Cookie", "")
        return cookie.partition("__Host-domicile=")[2].partition(";")[0]

    async def _wrong_label(self) -> None:
        who = self._from("DE")
        answer = await self._as(who, "PUT", "eu", "/profile", body={"plan": "free", "jurisdiction": "us"})
        self._row("wrong label", "a German's profile labelled us, by the SDK", "403 wrong-jurisdiction", answer.reason)
        happened = await asyncio.to_thread(Evidence(self._world).mislabelled_row, who)
        self._row(
            "wrong label",
            "the same row by psql into us-1, as the application's role",
            "refused: no open fence",
            happened,
        )
        happened = await asyncio.to_thread(Evidence(self._world).failed_statement, who)
        self._row("failed statement", "a German's e-mail in one that us-1's database refuses", "refused", happened)

    # -- what fails, and what must not be found ------------------------------------------------------

    async def _outage(self) -> None:
        for who in self._people:
            await self._as(who, "GET", self._home(who), "/profile")
        await self._world.end_part("directory")
        served = 0
        for who in self._people:
            answer = await self._as(who, "GET", self._home(who), "/profile")
            served += answer.status == 200
        count = len(self._people)
        self._row("directory stopped", "known users read", f"{count} of {count}", f"{served} of {count}")
        newcomer = person("DE", self._from("DE").address, "Neu Ankömmling")
        answer = await self._browser.send(
            "POST", self._router["eu"], "/signup", body=newcomer.sign_up(), address=newcomer.address
        )
        told = f"{answer.reason}{' with Retry-After' if 'Retry-After' in answer.headers else ''}"
        self._row("directory stopped", "a newcomer signs up", "503 unavailable with Retry-After", told)
        await self._world.start_part("directory")
        answer = await self._until(
            lambda: self._browser.send(
                "POST", self._router["eu"], "/signup", body=newcomer.sign_up(), address=newcomer.address
            ),
            201,
        )
        if answer.status == 201:
            self._people.append(newcomer)
        self._row("directory started", "the newcomer signs up again", "201", answer.reason)

    async def _until(self, ask: Callable[[], Awaitable[Answer]], status: int) -> Answer:
        """Ask again while the answer is 503, as ``Retry-After`` invites, for a bounded time."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while True:
            answer = await ask()
            if answer.status == status or answer.status != 503 or asyncio.get_running_loop().time() > deadline:
                return answer
            await asyncio.sleep(0.2)

    async def _evidence(self) -> None:
        evidence = Evidence(self._world)
        for jurisdiction in self._world.manifest.jurisdictions:
            values: dict[str, str] = {}
            for number, who in enumerate(self._people):
                if self._home(who) == jurisdiction:
                    values |= {f"{label} #{number}": value for label, value in who.values().items()}
            found = await asyncio.to_thread(evidence.controls, jurisdiction)
            self._row(
                "controls",
                f"values planted outside {jurisdiction}: {', '.join(found)}",
                "each found",
                "each found" if all(found.values()) else f"missed: {[k for k, v in found.items() if not v]}",
            )
            report = await asyncio.to_thread(evidence.scan, jurisdiction, values)
            tried = (
                f"{report.files} files, {report.read_bytes >> 20} MiB outside {jurisdiction}, for {len(values)} values"
            )
            happened = f"{len(report.hits)} hits, {len(report.unread)} unread"
            if report.hits:
                first = report.hits[0]
                happened += f"; first: {first.label} as {first.encoding} in {first.path}"
            self._row("scan", tried, "0 hits, 0 unread", happened)
        addresses = {f"address from {who.country} #{n}": who.address for n, who in enumerate(self._people)}
        ids = {f"user id #{n}": who.user for n, who in enumerate(self._people)}
        emails = {f"e-mail #{n}": who.email for n, who in enumerate(self._people)}
        report = await asyncio.to_thread(evidence.scan_logs, addresses | ids | emails)
        happened = f"{len(report.hits)} hits" + (
            f"; first: {report.hits[0].label} in {report.hits[0].path}" if report.hits else ""
        )
        self._row("logs", f"{report.files} logs everywhere, for ids, e-mails and client addresses", "0 hits", happened)


async def _play(layout: Layout, reporter: Reporter, tell: Callable[[Row], None]) -> list[Row]:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, told.set)
    world = await start_world(layout, None, reporter, told)
    if world is None:
        raise Unavailable("interrupted before the world was ready")
    try:
        async with Browser(world.manifest, layout) as browser:
            story = Story(world, browser, tell)
            playing, telling = asyncio.create_task(story.play()), asyncio.create_task(told.wait())
            await asyncio.wait({playing, telling}, return_when=asyncio.FIRST_COMPLETED)
            telling.cancel()
            if not playing.done():
                playing.cancel()
                await asyncio.gather(playing, return_exceptions=True)
                raise Unavailable("interrupted")
            playing.result()
            return story.rows
    finally:
        world.stop()


def play(state: Path | None, *, quiet: bool) -> list[Row]:
    """Start a world, play, stop it. Without ``state`` its folder is a temporary one, kept where a row surprises."""
    folder = state or Path(tempfile.mkdtemp(prefix="domicile-demo-"))
    layout = Layout.at(folder)
    layout.prepare()
    reporter = Reporter(None, quiet=quiet)

    def tell(row: Row) -> None:
        reporter.progress(row.step, f"{'ok' if row.ok else 'NOT AS EXPECTED'}: {row.tried}: {row.happened}")

    try:
        rows = asyncio.run(_play(layout, reporter, tell))
    except BaseException:
        if state is None:
            shutil.rmtree(folder, ignore_errors=True)  # it holds keys and a pepper, and nobody would look for it
        raise
    if state is None and all(row.ok for row in rows):
        shutil.rmtree(folder)
    elif not all(row.ok for row in rows):
        typer.echo(f"the world's state is kept in {folder}", err=True)
    return rows
