"""What the router costs beside what people run in its place, on one footing.

Throughput is requests for each second of the proxy's processor time, which a busy machine disturbs less than
a rate: proxy and applications share a core that they keep busy, the load comes from another. Times of answers
are taken at a fixed rate that leaves every proxy mostly idle.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Final

from domicile.model.wire import TOKEN_COOKIE
from loadtests.busy import wrk_answers
from loadtests.cases import Figure, Lane, Missing, Race, Target, Unmeasured
from loadtests.edges import (
    Proxy,
    aiohttp_edge,
    envoy_edge,
    envoy_recipe,
    has_plain_listener,
    nginx_edge,
    router,
    splice_edge,
)
from loadtests.pace import Stream, pace
from loadtests.processes import LOADED_FROM, cpu_seconds, held_to
from loadtests.proxies import LARGE, SMALL, WHOSE
from loadtests.recipes import haproxy_by_map, nginx_by_lua
from loadtests.stage import KNOWN, Stage, User, head, stage

SECONDS: Final = 2
"""Of one lane's round under wrk."""
WARM_RUNS: Final = 4
ROUNDS: Final = {"plain": 5, "TLS": 3}
RATE: Final = 300
PACED_SECONDS: Final = 3.0
HANGING_RATE: Final = 40
THROUGHPUT: Final = "req/CPU-s"
MAP: Final = f"nginx, static map of {KNOWN:,} users"
BARE: Final = "Envoy by a static header, nothing checked, cleaned or tried again"
SPLICE: Final = "bytes passed on by uvloop, nothing checked"
EDGES: Final[Mapping[str, Callable[..., AbstractContextManager[Proxy]]]] = {
    "router": router,
    "nginx": nginx_edge,
    "envoy": envoy_edge,
    "aiohttp": aiohttp_edge,
    "splice": splice_edge,
}


def cases() -> Iterator[Race | Missing]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            with stage(Path(folder)) as built:
                for tls in (False, True):
                    yield from _side_by_side(built, tls=tls)
                yield from _by_token(built)
                yield from _by_decision(built)
        except Unmeasured as error:
            yield Missing("router: all that runs under load", str(error))


def _side_by_side(built: Stage, *, tls: bool) -> Iterator[Race | Missing]:
    said = "TLS" if tls else "plain"
    running: dict[str, Proxy] = {}
    absent: dict[str, str] = {}
    with ExitStack() as stack:
        for name, edge in EDGES.items():
            try:
                running[name] = stack.enter_context(edge(built, tls=tls))
                if name == "router":
                    _check(built, running[name].listeners[name], tls=tls)
            except Unmeasured as error:
                absent[name] = str(error)
            if "router" in absent:
                break
        lanes = _Lanes(built, running, absent, tls=tls)
        races = [_small(lanes, said), _large(lanes, said), _at_a_rate(lanes, said)]
        if tls != has_plain_listener():  # once is enough: its peer is itself
            races.append(_one_hanging(lanes, said))
        if "router" in absent:
            yield from (Missing(figure.name, absent["router"]) for race in races for figure in race.figures)
            return
        yield from races


def _context(*, tls: bool) -> ssl.SSLContext | None:
    """For the loader's side, which is not measured and believes everybody, as wrk does."""
    if not tls:
        return None
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _check(built: Stage, address: str, *, tls: bool) -> None:
    """That the router does its work: sends each to his home, says who it is, and refuses a forged token."""
    user = built.active[0]
    status, body = _ask(address, user.token, tls=tls)
    if status != 200 or body.split()[1:] != [user.cell]:
        raise Unmeasured(f"the router answered a known user with {status}, from another place than his home")
    forged = user.token[:-8] + ("A" * 8 if user.token[-8:] != "A" * 8 else "B" * 8)
    status, _ = _ask(address, forged, tls=tls)
    if status != 401:
        raise Unmeasured(f"the router answered a forged token with {status}")


def _ask(address: str, token: str, *, tls: bool) -> tuple[int, str]:
    context = _context(tls=tls)
    plain = HTTPConnection(address, timeout=10)
    connection = plain if context is None else HTTPSConnection(address, timeout=10, context=context)
    try:
        connection.request("GET", WHOSE, headers={"Cookie": f"{TOKEN_COOKIE}={token}"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except OSError as error:
        raise Unmeasured(f"the router does not answer: {type(error).__name__}") from None
    finally:
        connection.close()


class _Lanes:
    """Rounds of the proxies that run; those of one that doesn't say why."""

    def __init__(self, built: Stage, running: Mapping[str, Proxy], absent: Mapping[str, str], *, tls: bool) -> None:
        self._built = built
        self._running = running
        self._absent = absent
        self._tls = tls

    def _proxy(self, name: str) -> Proxy:
        if name in self._absent:
            raise Unmeasured(self._absent[name])
        return self._running[name]

    def busy(self, name: str, listener: str, path: str = SMALL) -> Lane:
        """As many requests as wrk gets answered; before the first round without counting."""
        warm = False

        def run() -> Mapping[str, float]:
            nonlocal warm
            proxy = self._proxy(name)
            if not warm:
                self._warm(proxy.listeners[listener], path)
                warm = True
            before = cpu_seconds(proxy.pid)
            answered = self._answered(proxy.listeners[listener], path)
            spent = cpu_seconds(proxy.pid) - before
            _told(f"{name} {listener}: {answered / SECONDS:,.0f} req/s, {spent / SECONDS:.0%} of a core")
            return {"requests": answered / spent}

        return run

    def _warm(self, address: str, path: str) -> None:
        """Until each user was answered once, or for long enough."""
        answered = 0
        for _ in range(WARM_RUNS):
            answered += self._answered(address, path, first=answered)
            if answered >= len(self._built.active):
                break

    def _answered(self, address: str, path: str, *, first: int | None = None) -> int:
        scheme = "https" if self._tls else "http"
        return wrk_answers(self._built.users_file, f"{scheme}://{address}{path}", SECONDS, first=first)

    def paced(self, name: str, listener: str, *, beside_hanging: bool = False) -> Lane:
        """Times of answers at a fixed rate; ``beside_hanging``: while others ask for a cell that hangs."""

        def run() -> Mapping[str, float]:
            address = self._proxy(name).listeners[listener]
            measured = Stream(_heads(self._built.active, address), RATE)
            stuck = [Stream(_heads(self._built.stuck, address), HANGING_RATE, hangs=True)] if beside_hanging else []
            with held_to(LOADED_FROM):
                asyncio.run(pace(address, _context(tls=self._tls), PACED_SECONDS, measured, *stuck))
            return {"p50": measured.percentile(0.5), "p99": measured.percentile(0.99)}

        return run


def _heads(users: list[User], address: str) -> list[bytes]:
    return [head(user, SMALL, address, number) for number, user in enumerate(random.sample(users, len(users)))]


def _told(what: str) -> None:
    print(f"  {what}", file=sys.stderr, flush=True)


def _small(lanes: _Lanes, said: str) -> Race:
    def figure(peer: str, against: str, at_least: float) -> Figure:
        target = Target(ratio_at_least=at_least) if said == "plain" else Target()
        return Figure(f"router, {said}, 200 B / {peer}", THROUGHPUT, "requests", "router", peer, against, target)

    return Race(
        {
            "router": lanes.busy("router", "router"),
            "nginx map": lanes.busy("nginx", "map"),
            "Envoy": lanes.busy("envoy", "header"),
            "nginx auth_request": lanes.busy("nginx", "auth_request"),
            "aiohttp": lanes.busy("aiohttp", "aiohttp"),
            "splice": lanes.busy("splice", "splice"),
        },
        (
            figure("nginx map", MAP, 0.5),
            figure("Envoy", "Envoy by cluster_header", 1.2),
            figure("nginx auth_request", "nginx auth_request, its cache warm", 0.9),
            figure("aiohttp", "bare aiohttp server and client", 3.0),
            Figure(f"router, {said}, 200 B / splice", THROUGHPUT, "requests", "router", "splice", SPLICE),
            Figure(f"that splice, {said}, 200 B / nginx map", THROUGHPUT, "requests", "splice", "nginx map", MAP),
        ),
        ROUNDS[said],
    )


def _large(lanes: _Lanes, said: str) -> Race:
    target = Target(ratio_at_least=0.7) if said == "plain" else Target()
    against = "nginx, proxy_buffers 16 16k"
    return Race(
        {"router": lanes.busy("router", "router", LARGE), "nginx": lanes.busy("nginx", "buffers", LARGE)},
        (Figure(f"router, {said}, 100 KB / nginx", THROUGHPUT, "requests", "router", "nginx", against, target),),
        ROUNDS[said],
    )


def _at_a_rate(lanes: _Lanes, said: str) -> Race:
    peers = {"nginx map": "nginx, the same load", "Envoy": "Envoy, the same load"}
    return Race(
        {
            "router": lanes.paced("router", "router"),
            "nginx map": lanes.paced("nginx", "map"),
            "Envoy": lanes.paced("envoy", "header"),
        },
        tuple(
            Figure(f"router, {said}, {of} at {RATE} req/s / {peer}", "ms", of, "router", peer, against)
            for of in ("p50", "p99")
            for peer, against in peers.items()
        ),
        ROUNDS[said],
    )


def _one_hanging(lanes: _Lanes, said: str) -> Race:
    return Race(
        {
            "quiet": lanes.paced("router", "router"),
            "beside": lanes.paced("router", "router", beside_hanging=True),
        },
        (
            Figure(
                f"router, {said}, one cell hangs: p99 of the others",
                "ms",
                "p99",
                "beside",
                "quiet",
                f"their own p99 at {RATE} req/s, none hanging",
                Target(ratio_at_most=1.5),
            ),
        ),
        ROUNDS["plain"],
    )


def _by_decision(built: Stage) -> Iterator[Race | Missing]:
    """The recipes that ask a router whom a request is for and keep its answer, warm, as they are printed."""
    recipes = {"nginx lua": nginx_by_lua, "haproxy": haproxy_by_map}
    with ExitStack() as stack:
        running: dict[str, Proxy] = {}
        absent: dict[str, str] = {}
        try:
            stack.enter_context(router(built, tls=False, name="asked"))
            running["nginx"] = stack.enter_context(nginx_edge(built, tls=False))
        except Unmeasured as error:
            absent = dict.fromkeys(("nginx", *recipes), str(error))
        for name, recipe in recipes.items():
            if name not in absent:
                try:
                    running[name] = stack.enter_context(recipe(built))
                except Unmeasured as error:
                    absent[name] = str(error)
        lanes = _Lanes(built, running, absent, tls=False)
        yield Race(
            {
                "nginx lua": lanes.busy("nginx lua", "lua"),
                "haproxy": lanes.busy("haproxy", "map"),
                "nginx map": lanes.busy("nginx", "map"),
            },
            (
                Figure("nginx, plain, by Lua's dictionary", THROUGHPUT, "requests", "nginx lua", "nginx map", MAP),
                Figure("HAProxy, plain, by its map", THROUGHPUT, "requests", "haproxy", "nginx map", MAP),
            ),
            ROUNDS["plain"],
        )


def _by_token(built: Stage) -> Iterator[Race | Missing]:
    """Envoy with the printed recipe, against the same that believes a header, and one that does nothing else."""
    with ExitStack() as stack:
        running: dict[str, Proxy] = {}
        absent: dict[str, str] = {}
        try:
            running["envoy"] = stack.enter_context(envoy_edge(built, tls=False))
            running["recipe"] = stack.enter_context(envoy_recipe(built))
            running["believing"] = stack.enter_context(envoy_recipe(built, believes_header=True))
        except Unmeasured as error:
            absent |= dict.fromkeys(("envoy", "recipe", "believing"), str(error))
        lanes = _Lanes(built, running, absent, tls=False)
        yield Race(
            {
                "token": lanes.busy("recipe", "token"),
                "same": lanes.busy("believing", "header"),
                "bare": lanes.busy("envoy", "header"),
            },
            (
                Figure(
                    "Envoy, plain, by residency token",
                    THROUGHPUT,
                    "requests",
                    "token",
                    "same",
                    "the same Envoy by a static header",
                    Target(ratio_at_least=0.8),
                ),
                Figure("Envoy, plain, by residency token / bare", THROUGHPUT, "requests", "token", "bare", BARE),
            ),
            ROUNDS["plain"],
        )
