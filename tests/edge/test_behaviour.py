"""What a router does for a client, an edge in front of it does too: the cases that hold for both, through each edge."""

from __future__ import annotations

import pytest
from domicile_testing.edges import Edge
from domicile_testing.routing import World, pin, subject


@pytest.fixture(autouse=True)
def _placed(world: World) -> None:
    world.directory.place(pin("alice", "eu-2", 7), pin("bob", "us-1"))


@pytest.mark.parametrize("carrier", ["header", "cookie"])
async def test_a_valid_token_is_served_by_the_home_cell_without_the_router(
    edge: Edge, world: World, carrier: str
) -> None:
    token = edge.token(pin("alice", "eu-2", 7))
    headers = {"Domicile-Token": token} if carrier == "header" else {"Cookie": f"a=1; __Host-domicile={token}; b=2"}
    async with edge.client() as client, client.get("/notes?q=1", headers=headers) as response:
        assert response.status == 200, await response.text()
        assert await response.json() == {"served": True}
    (seen,) = world.seen
    assert (seen.place, seen.target) == ("eu-2.ams/app", "/notes?q=1")
    assert seen.headers.getall("Domicile-Subject-Key") == [str(subject("alice"))]
    assert (seen.headers["Domicile-Cell"], seen.headers["Domicile-Epoch"]) == ("eu-2", "7")
    assert token not in str(seen.headers)
    assert seen.headers.get("Cookie") == ("a=1; b=2" if carrier == "cookie" else None)
    assert "Via" not in seen.headers, "a router says that it was there"
    assert world.directory.asked == []
