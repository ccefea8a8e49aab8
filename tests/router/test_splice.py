"""A host that names another jurisdiction is carried there by its name alone, its TLS unopened."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from contextlib import ExitStack, suppress

import pytest
from domicile_testing.conditions import until
from domicile_testing.routers import running
from domicile_testing.routing import World, pin

from domicile.model import Address
from domicile.router.files import share_out
from domicile.router.hello import MAX_HELLO_BYTES, Incomplete, server_name
from domicile.router.splice import HELLO_SECONDS
from domicile.telemetry import BORDER, BORDER_BYTES

HOST = "us.acme.example"


def hello(host: str | None, *, versions: tuple[ssl.TLSVersion, ...] = (ssl.TLSVersion.TLSv1_3,)) -> bytes:
    """The first message of a real client."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = versions[0]
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=host)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_host_is_read_from_a_real_hello_and_not_before_it_is_whole(version: ssl.TLSVersion) -> None:
    raw = hello("EU.Acme.example", versions=(version,))
    assert server_name(raw) == "eu.acme.example"
    assert server_name(raw + b"more") == "eu.acme.example"
    for end in range(len(raw)):
        with pytest.raises(Incomplete):
            server_name(raw[:end])
    assert server_name(hello(None, versions=(version,))) is None


def test_a_hello_in_many_records_is_read_too() -> None:
    raw = hello(HOST)
    body = raw[5:]
    split = b"".join(b"\x16\x03\x01\0\x01" + body[at : at + 1] for at in range(len(body)))
    assert server_name(split) == HOST
    with pytest.raises(Incomplete):
        server_name(split[:-1])


@pytest.mark.parametrize(
    "raw",
    [b"GET / HTTP/1.1\r\n", b"\x15\x03\x01\0\x02\x02\x28", b"\x16\x02\0\0\x01\x01", b"\x16\x03\x01\0\0",
     b"\x16\x03\x01\0\x04\x02\0\0\0", b"\x16\x03\x01\0\x04\x01\xff\xff\xff", b"\x16\x03\x01\0\x05\x01\0\0\x01\0"],
)  # fmt: skip
def test_what_is_no_hello_has_no_host(raw: bytes) -> None:
    assert server_name(raw) is None


def test_made_up_bytes_never_do_more_than_that() -> None:
    chance = random.Random(3)
    seeds = [hello(HOST), hello(None), hello("a" * 63 + ".example", versions=(ssl.TLSVersion.TLSv1_2,))]
    outcomes: dict[object, int] = {}
    for _ in range(5_000):
        raw = bytearray(chance.choice(seeds))
        for _ in range(chance.choice((1, 1, 2, 5))):
            at = chance.randrange(len(raw))
            match chance.randrange(3):
                case 0:
                    raw[at] = chance.randrange(256)
                case 1:
                    del raw[at : at + chance.choice((1, 2, 50))]
                case _:
                    raw[at:at] = chance.randbytes(chance.choice((1, 2, 50)))
        outcome: object
        try:
            host = server_name(bytes(raw))
            assert host is None or (host.isascii() and len(host) < MAX_HELLO_BYTES)
            outcome = host == HOST or host is None
        except Incomplete:
            outcome = "incomplete"
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert min(outcomes[True], outcomes["incomplete"]) > 100, outcomes


def test_an_endless_hello_is_given_up() -> None:
    raw = b"\x16\x03\x01\x40\0\x01\0\x3f\xf0" + bytes(MAX_HELLO_BYTES)
    assert server_name(raw[:MAX_HELLO_BYTES]) is None


async def asked(world: World, host: str, authority: str, name: str) -> bytes:
    """The head of an answer to somebody who asks at the eu router for a host."""
    public = Address(world.manifest.routers["fra"].public)
    context = world.public_context(authority)
    reader, writer = await asyncio.open_connection(public.host, public.port, ssl=context, server_hostname=host)
    writer.write(f"GET /notes HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {world.jwt(name)}\r\n\r\n".encode())
    try:
        return await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.transport.abort()


async def test_the_host_of_another_jurisdiction_is_answered_by_its_router(world: World) -> None:
    def count() -> list[float]:
        ways = [BORDER.labels("eu", "us", "traveller", "spliced")]
        ways += [BORDER_BYTES.labels("eu", "us", "splice"), BORDER_BYTES.labels("us", "eu", "splice")]
        return [way._value.get() for way in ways]

    world.directory.place(pin("bob", "us-1", 3), pin("alice", "eu-1"))
    before = count()
    async with world.router("iad"), world.router("fra"):
        assert (await asked(world, HOST, "us", "bob")).startswith(b"HTTP/1.1 200 ")
        assert [seen.place for seen in world.seen] == ["us-1.iad/app"]
        await until(lambda: all(now > old for now, old in zip(count(), before, strict=True)))
        assert (await asked(world, "eu.acme.example", "eu", "alice")).startswith(b"HTTP/1.1 200 ")
        with pytest.raises(ssl.SSLCertVerificationError):
            await asked(world, HOST, "eu", "bob")


async def test_a_process_carries_it_too(world: World) -> None:
    world.directory.place(pin("bob", "us-1", 3), pin("alice", "eu-1"))
    async with world.router("iad"), running(world.settings("fra")):
        for _ in range(3):
            assert (await asked(world, HOST, "us", "bob")).startswith(b"HTTP/1.1 200 ")
            assert (await asked(world, "eu.acme.example", "eu", "alice")).startswith(b"HTTP/1.1 200 ")
            with pytest.raises(ssl.SSLCertVerificationError):
                await asked(world, HOST, "eu", "bob")


async def test_without_a_router_of_the_host_the_connection_is_closed(world: World) -> None:
    async with world.router("fra"):
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await asked(world, HOST, "us", "bob")


async def test_a_hello_that_comes_in_pieces_is_waited_for(world: World) -> None:
    world.directory.place(pin("bob", "us-1", 3))
    public = Address(world.manifest.routers["fra"].public)
    async with world.router("iad"), world.router("fra"):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = world.public_context("us").wrap_bio(incoming, outgoing, server_hostname=HOST)
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        raw = outgoing.read()
        reader, writer = await asyncio.open_connection(public.host, public.port)
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(raw), 40):
            writer.write(raw[at : at + 40])
            await asyncio.sleep(0)
        incoming.write(await reader.read(1 << 16))
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                incoming.write(await reader.read(1 << 16))
        writer.transport.abort()


async def test_half_a_hello_that_ends_is_given_up_and_costs_nothing(world: World) -> None:
    public = Address(world.manifest.routers["fra"].public)
    async with world.router("fra"):
        reader, writer = await asyncio.open_connection(public.host, public.port)
        writer.write(hello(HOST)[:40])
        writer.write_eof()
        # at once, where its end was not seen only after HELLO_SECONDS of looking again and again
        async with asyncio.timeout(HELLO_SECONDS / 2):
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
        writer.close()


def test_files_are_shared_out_between_clients_and_all_else() -> None:
    for limit in (64, 256, 1024, 20_000, 1 << 20):
        clients, unsorted = share_out(limit)
        assert clients + unsorted <= limit * 3 // 4
        assert clients >= 1
        assert 1 <= unsorted <= 1024


async def test_idle_connections_do_not_take_the_files_that_homes_are_reached_by(world: World) -> None:
    world.directory.place(pin("alice", "eu-1"))
    public = Address(world.manifest.routers["fra"].public)
    few = ("sh", "-c", 'ulimit -n 200 && exec "$@"', "sh")
    async with running(world.settings("fra"), few):
        with ExitStack() as idle:
            for _ in range(220):
                idle.enter_context(socket.create_connection((public.host, public.port)))
            async with asyncio.timeout(HELLO_SECONDS / 2):
                assert (await asked(world, "eu.acme.example", "eu", "alice")).startswith(b"HTTP/1.1 200 ")
