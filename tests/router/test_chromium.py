"""A browser that nobody here wrote: it logs in, reads, listens, talks, uploads, and travels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType, web
from domicile_testing.chromium import Page, browser, pin_of, with_chromium
from domicile_testing.routing import Place, World, pin, routing_world

pytestmark = [with_chromium, pytest.mark.timeout(180)]
EU, US = "https://eu.acme.example", "https://us.acme.example"
MEBIBYTE = 1 << 20


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    def change(data: dict[str, Any]) -> None:
        for router in data["routers"].values():
            router["rules"] += [{"by": "jwt", "cookie": "session"}, {"by": "token"}]

    async with routing_world(tmp_path, change=change) as running:
        running.directory.place(pin("alice", "eu-2", 7), pin("bob", "us-1", 3))
        for place in running.places.values():
            place.reads_body = False
            place.handler = application(running, place)
        yield running


def application(world: World, place: Place) -> Any:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        match request.path:
            case "/login":
                answer = web.Response(text="welcome")
                name = (await request.read()).decode()
                answer.set_cookie("session", world.jwt(name), secure=True, httponly=True, samesite="Lax")
                return answer
            case "/events":
                stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
                await stream.prepare(request)
                for number in range(3):
                    await stream.write(f"data: {number}\n\n".encode())
                await asyncio.Event().wait()  # until the browser goes away
            case "/live":
                socket = web.WebSocketResponse()
                await socket.prepare(request)
                async for message in socket:
                    if message.type is WSMsgType.TEXT:
                        await socket.send_str(message.data.upper())
                return socket
            case "/upload":
                return web.Response(text=str(len(await request.read())))
        html = f"<!doctype html><link rel=icon href=data:,><title>{place.name}</title><p>{request.path_qs}</p>"
        return web.Response(text=html, content_type="text/html")

    return answer


async def title(page: Page) -> tuple[str, str]:
    return await page.run("document.title"), await page.run("location.href")


async def log_in(page: Page, name: str) -> None:
    assert await page.run(f"fetch('/login', {{method: 'POST', body: '{name}'}}).then(r => r.text())") == "welcome"


async def test_a_browser_is_at_home_through_the_router_and_is_sent_home_from_abroad(
    world: World, tmp_path: Path
) -> None:
    # both hosts lead to the router in Frankfurt, which carries the other one's connections on unopened
    fra = world.manifest.routers["fra"].public
    hosts = {"eu.acme.example:443": fra, "us.acme.example:443": fra}
    async with AsyncExitStack() as stack:
        for zone in ("fra", "iad"):
            await stack.enter_async_context(world.router(zone))
        pins = [pin_of(world.folder / f"public-{zone}" / "cert.pem") for zone in ("fra", "iad")]
        page = await stack.enter_async_context(browser(tmp_path / "chromium", hosts, pins))
        await page.open(f"{EU}/about")
        assert (await title(page))[0].startswith("eu-")
        await log_in(page, "alice")

        await page.open(f"{EU}/profile?tab=1")
        assert await title(page) == ("eu-2.ams/app", f"{EU}/profile?tab=1")
        assert await page.run("document.querySelector('p').textContent") == "/profile?tab=1"
        cookies = {each["name"]: each for each in (await page.call("Network.getCookies"))["cookies"]}
        assert cookies["__Host-domicile"]["httpOnly"]

        assert await page.run("""new Promise((kept, broken) => {
            const seen = [], source = new EventSource('/events');
            source.onmessage = event => {
                if (seen.push(event.data) == 3) { source.close(); kept(seen); }
            };
            source.onerror = broken;
        })""") == ["0", "1", "2"]
        assert (
            await page.run("""new Promise((kept, broken) => {
            const socket = new WebSocket('wss://' + location.host + '/live');
            socket.onopen = () => socket.send('grüße');
            socket.onmessage = event => { kept(event.data); socket.close(); };
            socket.onerror = broken;
        })""")
            == "GRÜSSE"
        )
        upload = f"fetch('/upload', {{method: 'PUT', body: new Uint8Array({MEBIBYTE})}}).then(r => r.text())"
        assert await page.run(upload) == str(MEBIBYTE)
        many = "Promise.all([...Array(30).keys()].map(n => fetch('/n' + n).then(r => r.status)))"
        assert set(await page.run(many)) == {200}

        await log_in(page, "bob")  # an American whose browser has still got the European's token
        assert await page.run("fetch('/profile', {redirect: 'manual'}).then(r => r.status)") == 400
        await page.call("Network.deleteCookies", name="__Host-domicile", url=EU)
        await page.open(f"{EU}/notes?a=b")
        assert await page.run("location.href") == f"{US}/notes?a=b", "redirected"
        assert "unauthenticated" in await page.run("document.body.textContent"), "no cookie has followed"
        await log_in(page, "bob")
        await page.open(f"{US}/notes?a=b")
        assert await title(page) == ("us-1.iad/app", f"{US}/notes?a=b")
    keys = {seen.headers.get("Domicile-Subject-Key") for seen in world.seen if seen.place == "us-1.iad/app"}
    assert keys == {None, str(pin("bob", "us-1").subject_key)}
