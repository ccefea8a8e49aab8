"""A router's keys turn while clients carry tokens by the last ones: at this router and at another, none is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import jwt
from domicile_testing.routing import World, pin

from domicile.model.wire import TOKEN_COOKIE


async def token_of(world: World, client: Any) -> str:
    async with client.get("/notes", headers=world.bearer("alice")) as response:
        assert response.status == 200
        cookie: str = response.headers["Set-Cookie"]
    return cookie.partition(";")[0].partition("=")[2]


async def status(client: Any, token: str) -> int:
    async with client.get("/notes", headers={"Cookie": f"{TOKEN_COOKIE}={token}"}, allow_redirects=False) as response:
        answered: int = response.status
        return answered


async def test_tokens_hold_while_the_keys_that_signed_them_turn(world: World) -> None:
    world.directory.place(pin("alice", "eu-1"))
    tokens: dict[str, str] = {}
    async with world.router("fra", key_days=0.2 / 86_400) as turning, world.router("iad") as abroad:
        async with asyncio.timeout(30):
            while len(tokens) < 4:
                token = await token_of(world, turning)
                tokens[jwt.get_unverified_header(token)["kid"]] = token
                for each in tokens.values():
                    assert await status(turning, each) == 200
                    assert await status(abroad, each) == 307, "believed, and sent home"
    published = [kid for kid, key in world.directory.keys.items() if key.domicile_use == "residency"]
    assert len(published) >= 4
    assert world.directory.retired, "what is no longer used is taken out"
    assert not set(world.directory.retired) & set(published[-2:]), "what signs, and what follows it, is not"
