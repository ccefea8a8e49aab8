"""While subjects move from cell to cell, their clients are served all along, through every edge."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from domicile_testing.conditions import until
from domicile_testing.edges import Edge
from domicile_testing.routing import Handler, World, pin

from domicile.model import Pin

CELLS = ("eu-1", "eu-2")


class Mover:
    """Moves a subject by new epochs, and answers for both cells as their guards and applications would."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.pin = pin("alice", "eu-1", 1)
        self.stale = 0
        self.move()
        world.answers(self._of("eu-1"), "eu-1.fra", "eu-1.par")
        world.answers(self._of("eu-2"), "eu-2.ams")

    def move(self) -> Pin:
        """At once; the pin of before."""
        before, epoch = self.pin, self.pin.epoch + 1
        self.pin = pin("alice", CELLS[epoch % 2], epoch)
        self._world.directory.place(self.pin)
        return before

    def _of(self, cell: str) -> Handler:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            named = (request.headers["Domicile-Cell"], request.headers["Domicile-Epoch"])
            if cell == self.pin.cell and named == (cell, str(self.pin.epoch)):
                return web.Response(text=(await request.read()).decode())
            self.stale += 1
            says = {"Domicile-Guard": "stale-epoch", "Domicile-Epoch": str(self.pin.epoch)}
            return web.Response(status=421, headers=says)

        return answer


@pytest.mark.parametrize("by", ["token", "session"])
async def test_while_a_subject_moves_its_clients_are_served(edge: Edge, world: World, by: str) -> None:
    mover = Mover(world)
    served: list[tuple[int, str]] = []
    going = True
    headers = {"Domicile-Token": edge.token(mover.pin)} if by == "token" else world.bearer("alice")

    async def ask(number: int) -> None:
        async with edge.client(**headers) as client:
            while going:
                body = f"{number}-{len(served)}"
                method = ("POST", "PUT")[number % 2]
                async with client.request(method, "/notes", data=body.encode()) as response:
                    text = await response.text()
                served.append((response.status, "" if text == body else text))

    clients = [asyncio.create_task(ask(number)) for number in range(2)]
    for _ in range(8):
        seen = len(served)
        await until(lambda: len(served) > seen + 6)  # noqa: B023 - awaited here
        mover.move()
    seen = len(served)
    await until(lambda: len(served) > seen + 6)
    going = False
    await asyncio.gather(*clients)
    assert set(served) == {(200, "")}
    if edge.asks or by == "token":
        assert mover.stale > 0, "nothing was stale, so that nothing was proved"
