"""What each kind of people does, as Locust users. Everybody checks every answer: who gave it, and about whom.

An answer of another jurisdiction's cell, or about somebody else, is ``foreign``: it fails the run even if it came fast.
Times are Locust's. People come in by their jurisdiction's routers, travellers by another's.
"""

from __future__ import annotations

import itertools
import json
import random
import secrets
import ssl
import time
from collections.abc import Callable
from typing import Any, ClassVar, Final

import gevent
import websocket
from locust import User, task
from locust.contrib.fasthttp import FastHttpSession

from domicile.model.manifest import Travellers
from loadtests.people.places import Front, Task
from loadtests.people.plan import HotCell, Kind, People, SignUps, Uploads
from loadtests.people.samples import FOREIGN

_SECONDS: Final = 20.0
_AGAIN_SECONDS: Final = 1.0
_MOST_TRIES: Final = 40
_numbers = itertools.count(1)


class Foreign(Exception):
    """An answer from where none may come, or about somebody else."""

    def __str__(self) -> str:
        return f"{FOREIGN}: {super().__str__()}"


def _only(context: ssl.SSLContext) -> Callable[..., ssl.SSLContext]:
    """What geventhttpclient makes its contexts by. The authorities that it offers, those of the public web, are left
    out: a factory that did not take them would have them loaded into the context afterwards."""

    def made(cafile: object = None) -> ssl.SSLContext:
        return context

    return made


class Person(User):
    """Signs up, does ``visit`` things, and comes back as somebody new."""

    abstract = True
    kind: ClassVar[Kind]
    set_up: ClassVar[Task]
    contexts: ClassVar[dict[str, ssl.SSLContext]]

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._part = self.set_up.plan.mix.of(self.kind)
        self._home, self._front = self._from()
        self._clients = {
            name: FastHttpSession(
                None,
                environment.events.request,
                self,
                insecure=False,
                ssl_context_factory=_only(context),
                connection_timeout=_SECONDS,
                network_timeout=_SECONDS,
                max_retries=0,
                max_redirects=0,
            )
            for name, context in self.contexts.items()
        }  # fmt: skip
        self._name = self._session = ""
        self._left = 0

    def _from(self) -> tuple[str, Front]:
        """Each jurisdiction in turn, so that a short run has all of them."""
        names = sorted(self.set_up.fronts)
        name = names[next(_numbers) % len(names)]
        return name, self.set_up.fronts[name]

    def wait_time(self) -> float:
        part = self._part
        return random.uniform(*part.think_seconds) if isinstance(part, People) else 0.0

    # -- requests --------------------------------------------------------------------------------------------

    def _ask(
        self, action: str, method: str, path: str, *, at: str = "", host: str = "", status: int = 200,
        body: dict[str, Any] | None = None, kind: Kind | None = None, signed_in: bool = True,
    ) -> tuple[dict[str, Any], str]:  # fmt: skip
        """The document, empty where the answer was not ``status``, and where it points to; ``at``: whose front."""
        at = at or self._home
        router = host or random.choice(self.set_up.fronts[at].routers)
        headers = {"Authorization": f"Bearer {self._session}"} if signed_in and self._session else {}
        with self._clients[at].request(
            method, f"https://{router}{path}", name=f"{kind or self.kind}: {action}", json=body, headers=headers,
            catch_response=True, allow_redirects=False,
        ) as answer:  # fmt: skip
            document = _document(answer)
            if answer.status_code != status:
                if 200 <= answer.status_code < 300:
                    answer.failure(Foreign(f"{answer.status_code} where {status} was due"))
                else:
                    answer.failure(_refused(answer.status_code, document, answer))
                return {}, ""
            if wrong := self._wrong(document):
                answer.failure(Foreign(wrong))
                return {}, ""
            answer.success()
            return document, (answer.headers or {}).get("Location", "")

    def _wrong(self, document: dict[str, Any]) -> str:
        """What in an answer cannot be right for this person."""
        if document.get("jurisdiction", self._home) != self._home:
            return f"{document['jurisdiction']} answers somebody of {self._home}"
        if document.get("cell", self._front.cells[0]) not in self._front.cells:
            return f"{document['cell']} answers somebody of {self._home}"
        if "user" in document and document["user"] != self._name:
            return "about somebody else"
        return ""

    def _sign_up(self, kind: Kind, at: str = "") -> dict[str, Any]:
        # every personal value holds the run's own, so that the scan finds it wherever it lies
        name = f"{self._front.value}-{secrets.token_hex(6)}"
        body = {
            "user": name, "email": f"{name}@people.example", "password": secrets.token_urlsafe(9), "plan": "free",
            "residence": self._front.country,
        }  # fmt: skip
        document, _ = self._ask("sign up", "POST", "/signup", status=201, body=body, kind=kind, at=at, signed_in=False)
        if document:
            self._name, self._session = name, document["session"]
        return document

    def _wanted(self, document: dict[str, Any]) -> bool:
        return True

    def _come(self) -> None:
        self._name = self._session = ""
        for client in self._clients.values():
            client.cookiejar.clear()
        for _ in range(_MOST_TRIES):
            document = self._sign_up(Kind.ARRIVALS)
            if document and self._wanted(document):
                break
            self._session = ""
            if not document:
                gevent.sleep(_AGAIN_SECONDS)
        part = self._part
        self._left = part.visit if isinstance(part, People) else 1

    def _do(self) -> None:
        """What one of this kind does at a turn. Strangers, whose whole turn is signing up, have nothing else to do."""
        raise NotImplementedError

    @task
    def step(self) -> None:
        """Once: Locust runs a base's tasks beside those of the class that overrides them."""
        self._turn()

    def _turn(self) -> None:
        if self._left <= 0 or not self._session:
            self._come()
        if self._session:
            self._left -= 1
            self._do()

    # -- what many do ----------------------------------------------------------------------------------------

    def _text(self, length: int = 0) -> str:
        return f"{self._front.value} writes {secrets.token_hex(4)} ".ljust(length, ".")


class Resident(Person):
    kind = Kind.RESIDENTS

    def _do(self) -> None:
        chance = random.random()
        if chance < 0.6:
            self._ask("read profile", "GET", "/profile")
        elif chance < 0.75:
            self._ask("read notes", "GET", "/notes")
        elif chance < 0.9:
            self._ask("write note", "POST", "/notes", body={"text": self._text()}, status=201)
        else:
            self._ask("change plan", "PUT", "/profile", body={"plan": secrets.choice(("free", "pro"))})


class Traveller(Person):
    """Comes in abroad: sent home with 307, and goes there; or carried home, where the jurisdiction allows it."""

    kind = Kind.TRAVELLERS

    def _do(self) -> None:
        abroad = random.choice([name for name in self.set_up.fronts if name != self._home])
        if self._front.travellers == Travellers.REFUSE:
            self._ask("refused abroad", "GET", "/profile", at=abroad, status=451)
            return
        if self._front.travellers == Travellers.HAIRPIN:
            self._ask("read profile, carried", "GET", "/profile", at=abroad)
            self._ask("write note, carried", "POST", "/notes", at=abroad, body={"text": self._text()}, status=201)
            return
        _, place = self._ask("sent home", "GET", "/profile", at=abroad, status=307)
        if not place:
            return
        wanted = f"https://{self._front.public_host}/"
        if not place.startswith(wanted):
            self._tell("sent home", Foreign(f"sent elsewhere than {wanted}"), 0)
            return
        self._ask("read profile, at home", "GET", place.removeprefix(wanted[:-1]), host=self._front.public_host)

    def _tell(self, action: str, error: Exception | None, milliseconds: float) -> None:
        self.environment.events.request.fire(
            request_type="GET", name=f"{self.kind}: {action}", response_time=milliseconds, response_length=0,
            exception=error, context={},
        )  # fmt: skip


class Stranger(Person):
    """One of a storm: nobody signs up for a while, then all of them at once."""

    kind = Kind.SIGN_UPS

    def _turn(self) -> None:
        part = self._part
        assert isinstance(part, SignUps)
        now = time.monotonic()
        gevent.sleep(part.every_seconds - now % part.every_seconds)  # the same instant for every one of them
        for _ in range(part.burst):
            self._home, self._front = self._from()
            self._name = self._session = ""
            self._sign_up(Kind.SIGN_UPS)


class Neighbour(Person):
    """One of many in one cell."""

    kind = Kind.HOT_CELL

    def _from(self) -> tuple[str, Front]:
        part = self.set_up.plan.mix.hot_cell
        return next((name, front) for name, front in self.set_up.fronts.items() if part.cell in front.cells)

    def _wanted(self, document: dict[str, Any]) -> bool:
        assert isinstance(self._part, HotCell)
        return bool(document["cell"] == self._part.cell)

    def _do(self) -> None:
        if random.random() < 0.7:
            self._ask("read profile", "GET", "/profile")
        else:
            self._ask("write note", "POST", "/notes", body={"text": self._text()}, status=201)


class Uploader(Person):
    kind = Kind.UPLOADS

    def _do(self) -> None:
        assert isinstance(self._part, Uploads)
        body = {"text": self._text(self._part.kilobytes * 1024), "topic": "upload"}
        self._ask("upload", "POST", "/notes", body=body, status=201)


class Talker(Person):
    """Opens a WebSocket, writes its notes through it, and closes it."""

    kind = Kind.WEB_SOCKETS

    def _do(self) -> None:
        socket = None
        try:
            with self._timed("open"):
                socket = websocket.create_connection(
                    f"wss://{random.choice(self._front.routers)}/notes/live", timeout=_SECONDS,
                    sslopt={"context": self.contexts[self._home]}, http_no_proxy=["*"],
                    header=[f"Authorization: Bearer {self._session}"],
                )  # fmt: skip
            for _ in range(self._left):
                gevent.sleep(self.wait_time())
                self._left -= 1
                with self._timed("message"):
                    socket.send(json.dumps({"text": self._text(), "topic": "live"}))
                    answer = json.loads(socket.recv())
                    if "id" not in answer:
                        raise OSError(f"{answer.get('status')} {answer.get('code')}")
        except (OSError, ValueError, websocket.WebSocketException):
            gevent.sleep(_AGAIN_SECONDS)  # told already
        finally:
            if socket is not None:
                socket.close(timeout=1)

    def _timed(self, action: str) -> Any:
        return _Timed(self, action)


class _Timed:
    """Tells Locust of what is no HTTP request; what went wrong is told and goes on."""

    def __init__(self, user: Person, action: str) -> None:
        self._user, self._action = user, action

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None and not isinstance(error, (OSError, ValueError, websocket.WebSocketException)):
            return  # the end of the run, not of a request
        self._user.environment.events.request.fire(
            request_type="WS", name=f"{self._user.kind}: {self._action}", response_length=0, context={},
            response_time=(time.perf_counter() - self._began) * 1000, exception=error,
        )  # fmt: skip


def _document(answer: Any) -> dict[str, Any]:
    try:
        document = json.loads(answer.text or "{}")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _refused(status: int, document: dict[str, Any], answer: Any) -> str:
    if not status:
        return type(answer.error).__name__ if answer.error else "no answer"
    return f"{status} {document.get('code', '')}".strip()


PEOPLE: Final[dict[Kind, type[Person]]] = {
    each.kind: each for each in (Resident, Traveller, Stranger, Neighbour, Uploader, Talker)
}
