"""The sample application's routes. It shows what an application has to do itself, which is little.

Sign-up and log-in are unpinned: they run where the request arrives, and the SDK's errors lead the client
home. Everything else is pinned: the guard has found the subject's home before a handler runs, and the handler
checks that the session names the same subject.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Final
from uuid import uuid4
from weakref import WeakSet

from aiohttp import WSCloseCode, WSMsgType, web
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from domicile.model import (
    Conflict,
    CrossBorderAccess,
    DomicileError,
    Endpoint,
    InvalidInput,
    NotFound,
    Unauthenticated,
    UnknownSubject,
    normalise_alias,
)
from domicile.model.ids import Country, JurisdictionName
from domicile.sample import passwords
from domicile.sample.records import PROFILE, Note, Profile
from domicile.sample.sessions import Sessions
from domicile.sample.support import SupportDesk
from domicile.sdk import Home, Residency, Withheld, evenly
from domicile.sdk.aiohttp import guard, home_of, observed_country
from domicile.service import Service, problem_of, problem_response, read_body, where_invalid

Text = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00]*$")]
Password = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
REFUSAL_SECONDS: Final = 0.3
"""Until a log-in or a sign-up is refused: longer than finding out takes."""
_LIVE_BYTES: Final = 1 << 20
_HEARTBEAT_SECONDS: Final = 30.0
TAKEN: Final = "nobody can sign up with this user name and e-mail address"


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class SignUp(_Body):
    user: Text
    email: Text
    password: Password
    born: date | None = None
    plan: Text
    residence: Country | None = None


class LogIn(_Body):
    email: Text
    password: Password


class ProfileChange(_Body):
    plan: Text | None = None
    jurisdiction: JurisdictionName | None = None


class NewNote(_Body):
    text: Annotated[str, StringConstraints(min_length=1, max_length=64_000)]
    topic: Text = "general"


class SupportLookup(_Body):
    user: Text


class SupportChange(_Body):
    user: Text
    plan: Text


def _json(status: int = 200, **body: Any) -> web.Response:
    return web.json_response(body, status=status, headers={"Cache-Control": "no-store"})


def _refusal(error: DomicileError) -> dict[str, Any]:
    return problem_of(error)[0].model_dump(mode="json", exclude_none=True)


class Sample:
    """Handlers of one cell."""

    def __init__(self, residency: Residency, sessions: Sessions, desk: SupportDesk) -> None:
        self._residency = residency
        self._sessions = sessions
        self._desk = desk
        self._live: WeakSet[web.WebSocketResponse] = WeakSet()

    def routes(self, service: Service) -> None:
        """Declare every route, and put the guard before them."""
        for method, path, handler in (
            ("POST", "/signup", self.sign_up),
            ("POST", "/login", self.log_in),
            ("GET", "/about", self.about),
            ("GET", "/profile", self.profile),
            ("PUT", "/profile", self.change_profile),
            ("POST", "/notes", self.add_note),
            ("GET", "/notes", self.notes),
            ("GET", "/notes/live", self.live_notes),
            ("POST", "/support/profile", self.support_profile),
            ("POST", "/support/plan", self.support_plan),
        ):
            service.route(method, path, Endpoint.APP_REQUESTS, handler)
        service.app.on_shutdown.append(self._say_goodbye)
        guard(service.app, self._residency)

    async def _say_goodbye(self, _: web.Application) -> None:
        for socket in list(self._live):
            await socket.close(code=WSCloseCode.GOING_AWAY)

    async def about(self, _: web.Request) -> web.Response:
        return _json(cell=self._residency.cell_name, jurisdiction=self._residency.jurisdiction)

    def _session(self, user: str, home: Home, status: int) -> web.Response:
        return _json(status, jurisdiction=home.jurisdiction, cell=home.cell, session=self._sessions.issue(user))

    async def sign_up(self, request: web.Request) -> web.Response:
        """201 with a session; 409 alike, and after the same time, for a taken user name and a taken address."""
        body = await read_body(request, SignUp)
        async with evenly(REFUSAL_SECONDS):
            home = await self._sign_up(body, observed_country(request))
        return self._session(body.user, home, 201)

    async def _sign_up(self, body: SignUp, country: str | None) -> Home:
        email = normalise_alias("email", body.email)
        # the alias is claimed last: a stranger's address must not be tied to a user who is there already
        home = await self._residency.claim(body.user, residence=body.residence, observed_country=country)
        if await home.get(Profile, PROFILE) is not None:
            raise Conflict(TAKEN)
        profile = home.new(
            Profile,
            id=PROFILE,
            user=body.user,
            email=email,
            password=await passwords.hash_password(body.password),
            born=body.born,
            plan=body.plan,
        )
        try:
            home = await self._residency.claim(
                body.user, residence=body.residence, observed_country=country, aliases={"email": email}
            )
            await home.put(profile, version=0)
        except Conflict:
            raise Conflict(TAKEN) from None
        return home

    async def log_in(self, request: web.Request) -> web.Response:
        """200 with a session; 401 alike, and after the same time, for an unknown address and a wrong password."""
        body = await read_body(request, LogIn)
        email = normalise_alias("email", body.email)
        async with evenly(REFUSAL_SECONDS):
            home, profile = await self._by_email(email)
            right = await passwords.matches(body.password, profile.password if profile else passwords.NOBODY)
            if home is None or profile is None or not right:
                raise Unauthenticated("unknown e-mail address or wrong password")
        return self._session(profile.user, home, 200)

    async def _by_email(self, email: str) -> tuple[Home | None, Profile | None]:
        try:
            home = await self._residency.home_of(await self._residency.resolve_alias("email", email))
        except UnknownSubject:
            return None, None
        found = await home.find(Profile, email=email)
        return home, found[0] if found else None

    def _home(self, request: web.Request) -> Home:
        """The routed home, if the session names its subject; the cell checks again what the router checked."""
        user = self._sessions.user(request.headers.get("Authorization"))
        return home_of(request, user)

    async def profile(self, request: web.Request) -> web.Response:
        profile = await self._home(request).get(Profile, PROFILE)
        if profile is None:
            raise NotFound("no profile")
        return _json(
            user=profile.user,
            email=profile.email,
            born=profile.born.isoformat() if profile.born else None,
            plan=profile.plan,
            jurisdiction=profile.jurisdiction,
        )

    async def change_profile(self, request: web.Request) -> web.Response:
        """Change the plan. A ``jurisdiction`` other than the home's is what the SDK refuses: 403."""
        home = self._home(request)
        body = await read_body(request, ProfileChange)
        async with home.transaction() as transaction:
            profile = await transaction.get(Profile, PROFILE)
            if profile is None:
                raise NotFound("no profile")
            changes = body.model_dump(exclude_none=True)
            await transaction.put(profile.model_copy(update=changes), version=profile.version)
        return await self.profile(request)

    async def add_note(self, request: web.Request) -> web.Response:
        home = self._home(request)
        body = await read_body(request, NewNote)
        return _json(201, **await self._new_note(home, body))

    async def _new_note(self, home: Home, body: NewNote) -> dict[str, str]:
        note = home.new(Note, id=uuid4(), text=body.text, topic=body.topic)
        await home.put(note, version=0)
        return {"id": str(note.id), "topic": note.topic}

    async def live_notes(self, request: web.Request) -> web.WebSocketResponse:
        """A WebSocket. Each message is a note as ``POST /notes`` takes it, each answer what that would have said.

        It outlives the moment in which the guard let it in: so the session is looked at, and the home's fence is
        asked, at each message. The first refusal but a malformed note is also the last answer.
        """
        home = self._home(request)
        socket = web.WebSocketResponse(heartbeat=_HEARTBEAT_SECONDS, max_msg_size=_LIVE_BYTES)
        await socket.prepare(request)
        self._live.add(socket)
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                await socket.close(code=WSCloseCode.UNSUPPORTED_DATA)
                break
            try:
                self._sessions.user(request.headers.get("Authorization"))
                answer: dict[str, Any] = await self._new_note(home, NewNote.model_validate_json(message.data))
            except ValidationError as error:
                answer = _refusal(InvalidInput(where_invalid(error)))
            except DomicileError as error:
                await socket.send_json(_refusal(error))
                await socket.close(code=WSCloseCode.POLICY_VIOLATION)
                break
            await socket.send_json(answer)
        return socket

    async def notes(self, request: web.Request) -> web.Response:
        notes = await self._home(request).all(Note)
        body = [{"id": str(note.id), "text": note.text, "topic": note.topic} for note in notes]
        return web.json_response(body, headers={"Cache-Control": "no-store"})

    async def support_profile(self, request: web.Request) -> web.Response:
        """A user's profile as this jurisdiction may see it, for the support desk."""
        self._desk.require(request.headers.get("Authorization"))
        body = await read_body(request, SupportLookup)
        row = await (await self._residency.abroad(body.user)).get(Profile, PROFILE)
        if row is None:
            raise NotFound("no profile")
        view: dict[str, Any] = {}
        for name in ("email", "plan"):
            value = getattr(row, name)
            held = isinstance(value, Withheld)
            view[name] = {"withheld": value.category, "jurisdiction": value.jurisdiction} if held else value
        return _json(email=view["email"], plan=view["plan"])

    async def support_plan(self, request: web.Request) -> web.Response:
        """Change a user's plan, if the user is at home here; a support desk is not sent abroad: 451."""
        self._desk.require(request.headers.get("Authorization"))
        body = await read_body(request, SupportChange)
        try:
            home = await self._residency.home(body.user)
        except CrossBorderAccess as error:
            return problem_response(error)
        async with home.transaction() as transaction:
            profile = await transaction.get(Profile, PROFILE)
            if profile is None:
                raise NotFound("no profile")
            await transaction.put(profile.model_copy(update={"plan": body.plan}), version=profile.version)
        return _json(plan=body.plan)
