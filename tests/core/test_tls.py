"""The check inside the handshake, over real sockets, under asyncio and under uvloop."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop
from domicile_testing import Trust
from domicile_testing.forgery import NOW, Forgery, named

from domicile.identity import Authority, Credentials, identity_of, peer_of, public_server
from domicile.model import Identity, InvalidInput, Role, Unauthenticated

Result = TypeVar("Result")
Run = Callable[[Coroutine[Any, Any, Result]], Result]
REQUEST = b"GET /secret HTTP/1.1\r\n\r\n"
REFUSED = (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run[Any]:
    return asyncio.run if request.param == "asyncio" else uvloop.run


@dataclass
class Meeting:
    """What came of one connection, as each side saw it."""

    received: bytes = b""
    seen_by_server: Identity | None = None
    seen_by_client: Identity | None = None
    served: bool = False
    refused: Exception | None = None
    loop_errors: list[dict[str, Any]] = field(default_factory=list)


async def meet(server: ssl.SSLContext, client: ssl.SSLContext | None, host: str = "127.0.0.1") -> Meeting:
    """One client writes a request as soon as it can; the server answers it."""
    meeting = Meeting()
    over = asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: meeting.loop_errors.append(context))

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        meeting.served = True
        try:
            meeting.seen_by_server = peer_of(writer.transport) if type(server) is not ssl.SSLContext else None
            meeting.received = await reader.read(1000)
            if meeting.received:
                writer.write(b"ok")
                await writer.drain()
        except (OSError, Unauthenticated):
            pass
        finally:
            writer.close()
            over.set()

    listener = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=server)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        try:
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, ssl=client, server_hostname=host if client else None
                )
                try:
                    if client is not None:
                        meeting.seen_by_client = peer_of(writer.transport)
                    writer.write(REQUEST)
                    assert await reader.readexactly(2) == b"ok"
                finally:
                    writer.close()
        except REFUSED as error:
            meeting.refused = error
        if meeting.served:
            async with asyncio.timeout(5):
                await over.wait()
    return meeting


def credentials(trust: Trust, jurisdiction: str, role: Role, name: str) -> Credentials:
    return trust.credentials(jurisdiction, role, name)


def forged(trust: Trust, folder: Path, by: str, forgery: Forgery) -> Credentials:
    made = forgery.write(trust.authorities[by], folder)
    return Credentials(made.certificate, made.key, trust.folder / "authorities")


def test_the_right_peers_meet_and_know_each_other(run: Run[Meeting], trust: Trust) -> None:
    server = credentials(trust, "eu", Role.GATEWAY, "eu-1.fra").server(["eu", "us"], [Role.APP])
    client = credentials(trust, "us", Role.APP, "us-1.iad").client("eu", [Role.GATEWAY], cell="eu-1")
    meeting = run(meet(server, client))
    assert meeting.refused is None
    assert meeting.received == REQUEST
    assert meeting.seen_by_server == Identity("acme", "us", Role.APP, "us-1.iad")
    assert meeting.seen_by_client == Identity("acme", "eu", Role.GATEWAY, "eu-1.fra")


def test_an_unforged_forgery_is_accepted(run: Run[Meeting], trust: Trust, tmp_path: Path) -> None:
    """Otherwise the refusals below could have another reason."""
    server = credentials(trust, "eu", Role.GATEWAY, "eu-1.fra").server(["eu"], [Role.ROUTER])
    made = forged(trust, tmp_path, "eu", Forgery(["spiffe://acme/eu/router/fra"]))
    assert run(meet(server, made.client("eu", [Role.GATEWAY]))).refused is None


ROUTER = "spiffe://acme/eu/router/fra"
FORGERIES: dict[str, tuple[str, Forgery]] = {
    "eu's authority signs a name of us": ("eu", Forgery(["spiffe://acme/us/router/iad"])),
    "eu's authority signs a name of global": ("eu", Forgery(["spiffe://acme/global/router/iad"])),
    "us's authority signs a name of eu": ("us", Forgery([ROUTER])),
    "eu's key under the name of us's authority": ("eu", Forgery(["spiffe://acme/us/router/iad"], issuer=named("us"))),
    "an authority for us made by eu's": ("eu", Forgery(["spiffe://acme/us/router/iad"], through="us")),
    "an authority for eu made by eu's": ("eu", Forgery([ROUTER], through="eu")),
    "two names": ("eu", Forgery([ROUTER, "spiffe://acme/eu/router/par"])),
    "a name of ours and a foreign one": ("eu", Forgery([ROUTER, "https://acme/"])),
    "no name": ("eu", Forgery([])),
    "no alternative name at all": ("eu", Forgery([], hosts=[])),
    "another deployment": ("eu", Forgery(["spiffe://other/eu/router/fra"])),
    "another scheme": ("eu", Forgery(["https://acme/eu/router/fra"])),
    "another role": ("eu", Forgery(["spiffe://acme/eu/keys/fra"])),
    "an unknown role": ("eu", Forgery(["spiffe://acme/eu/admin/fra"])),
    "a cell's role without a cell": ("eu", Forgery(["spiffe://acme/eu/app/fra"])),
    "expired": ("eu", Forgery([ROUTER], begins=NOW - timedelta(days=2), ends=NOW - timedelta(days=1))),
    "not yet valid": ("eu", Forgery([ROUTER], begins=NOW + timedelta(hours=1), ends=NOW + timedelta(days=1))),
}


@pytest.mark.parametrize("case", FORGERIES)
def test_a_server_serves_no_such_client(run: Run[Meeting], trust: Trust, tmp_path: Path, case: str) -> None:
    by, forgery = FORGERIES[case]
    server = credentials(trust, "eu", Role.GATEWAY, "eu-1.fra").server(["eu", "us", "global"], [Role.ROUTER])
    client = forged(trust, tmp_path, by, forgery)
    context = Credentials(client.certificate, client.key, client.authorities)._context(
        ssl.PROTOCOL_TLS_CLIENT, ["eu"], lambda peer: True
    )
    meeting = run(meet(server, context))
    assert meeting.refused is not None
    assert not meeting.served
    assert meeting.received == b""


@pytest.mark.parametrize("case", FORGERIES)
def test_a_client_sends_no_byte_to_such_a_server(run: Run[Meeting], trust: Trust, tmp_path: Path, case: str) -> None:
    by, forgery = FORGERIES[case]
    made = forged(trust, tmp_path, by, forgery)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # a server that asks nobody for a certificate
    server.load_cert_chain(made.certificate, made.key)
    caller = credentials(trust, "us", Role.APP, "us-1.iad")
    caller = Credentials(caller.certificate, caller.key, caller.authorities)
    deployment = "acme"
    context = caller._context(
        ssl.PROTOCOL_TLS_CLIENT,
        ["eu", "us", "global"],
        lambda peer: peer.deployment == deployment and peer.role is Role.ROUTER,
    )
    meeting = run(meet(server, context))
    assert meeting.refused is not None
    assert meeting.received == b""


@pytest.mark.parametrize(
    ("jurisdiction", "role", "name", "wanted"),
    [
        ("us", Role.GATEWAY, "us-1.iad", {}),
        ("global", Role.GATEWAY, "eu-1.fra", {}),
        ("eu", Role.APP, "eu-1.fra", {}),
        ("eu", Role.GATEWAY, "eu-2.fra", {"cell": "eu-1"}),
    ],
)
def test_a_client_sends_no_byte_to_another_jurisdiction_role_or_cell(
    run: Run[Meeting], trust: Trust, jurisdiction: str, role: Role, name: str, wanted: dict[str, str]
) -> None:
    server = credentials(trust, jurisdiction, role, name).server(["us"], [Role.APP])
    client = credentials(trust, "us", Role.APP, "us-1.iad").client("eu", [Role.GATEWAY], **wanted)
    meeting = run(meet(server, client))
    assert meeting.refused is not None
    assert meeting.received == b""


def test_a_client_sends_no_byte_to_another_host(run: Run[Meeting], trust: Trust, tmp_path: Path) -> None:
    elsewhere = forged(trust, tmp_path, "eu", Forgery(["spiffe://acme/eu/gateway/eu-1.fra"], hosts=["127.0.0.2"]))
    server = elsewhere.server(["us"], [Role.APP])
    client = credentials(trust, "us", Role.APP, "us-1.iad").client("eu", [Role.GATEWAY])
    meeting = run(meet(server, client))
    assert isinstance(meeting.refused, ssl.SSLCertVerificationError)
    assert meeting.received == b""
    assert run(meet(server, client, host="127.0.0.2")).refused is None


def test_a_server_serves_only_the_jurisdictions_it_names(run: Run[Meeting], trust: Trust) -> None:
    server = credentials(trust, "eu", Role.STORAGE, "eu-1.fra").server(["eu"], list(Role))
    client = credentials(trust, "us", Role.APP, "us-1.iad").client("eu", [Role.STORAGE])
    assert not run(meet(server, client)).served


def test_without_a_client_certificate_nothing_is_served(run: Run[Meeting], trust: Trust) -> None:
    server = credentials(trust, "eu", Role.GATEWAY, "eu-1.fra").server(["eu"], [Role.ROUTER])
    anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anonymous.check_hostname = False
    anonymous.verify_mode = ssl.CERT_NONE

    async def knock() -> tuple[bool, bytes]:
        served = False

        async def handle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal served
            served = True
            writer.close()

        async with await asyncio.start_server(handle, "127.0.0.1", 0, ssl=server) as listener:
            port = listener.sockets[0].getsockname()[1]
            answer = b""
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=anonymous)
                writer.write(REQUEST)
                answer = await reader.read(100)
                writer.close()
            except REFUSED:
                pass
            return served, answer

    assert run(knock()) == (False, b"")  # type: ignore[arg-type, comparison-overlap]


def test_a_client_without_tls_is_not_served(run: Run[Meeting], trust: Trust) -> None:
    server = credentials(trust, "eu", Role.GATEWAY, "eu-1.fra").server(["eu"], [Role.ROUTER])
    meeting = run(meet(server, None))
    assert meeting.refused is not None
    assert not meeting.served


def test_tls_below_1_3_is_not_spoken(trust: Trust) -> None:
    ours = credentials(trust, "eu", Role.GATEWAY, "eu-1.fra")
    for context in (ours.server(["eu"], [Role.ROUTER]), ours.client("eu", [Role.KEYS])):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_3
        assert context.verify_mode == ssl.CERT_REQUIRED
    assert ours.client("eu", [Role.KEYS]).check_hostname


@pytest.mark.parametrize("jurisdiction", ["eu", "us"])
def test_a_blocking_socket_is_checked_too(trust: Trust, jurisdiction: str) -> None:
    """Libraries that know no event loop wrap sockets, and must not get past the check by that."""
    server = credentials(trust, "eu", Role.KEYS, "fra").server(["eu"], [Role.APP])
    role = Role.KEYS if jurisdiction == "eu" else Role.GATEWAY
    client = credentials(trust, "eu", Role.APP, "eu-1.fra").client("eu", [role])

    async def serve() -> bool:
        async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=server) as listener:
            port = listener.sockets[0].getsockname()[1]

            def connect() -> bool:
                with socket.create_connection(("127.0.0.1", port), 5) as plain:
                    try:
                        client.wrap_socket(plain, server_hostname="127.0.0.1").close()
                    except ssl.SSLCertVerificationError:
                        return False
                    return True

            return await asyncio.to_thread(connect)

    assert asyncio.run(serve()) is (jurisdiction == "eu")


def test_who_comes_over_no_tls_of_ours_has_no_identity() -> None:
    with pytest.raises(Unauthenticated):
        peer_of(None)
    with pytest.raises(Unauthenticated):
        peer_of(asyncio.Transport(extra={"ssl_object": object()}))


@pytest.mark.parametrize(
    "certificate",
    [
        {},
        {"subjectAltName": (("URI", ROUTER),)},
        {"subjectAltName": (("URI", ROUTER),), "issuer": ((("commonName", "eu authority"),),)},
        {
            "subjectAltName": (("URI", ROUTER),),
            "issuer": ((("organizationName", "acme"),), (("commonName", "us authority"),)),
        },
        {
            "subjectAltName": (("URI", ROUTER),),
            "issuer": ((("organizationName", "other"),), (("commonName", "eu authority"),)),
        },
        {
            "subjectAltName": (("DNS", ROUTER),),
            "issuer": ((("organizationName", "acme"),), (("commonName", "eu authority"),)),
        },
    ],
)
def test_a_certificate_without_a_name_and_its_issuer_is_nobodys(certificate: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated):
        identity_of(certificate)


def test_a_public_listener_asks_for_no_certificate(run: Run[Meeting], trust: Trust, tmp_path: Path) -> None:
    certificate, key = trust.authorities["eu"].issue_public(["127.0.0.1", "eu.acme.example"])
    (tmp_path / "cert.pem").write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(key)
    context = public_server(tmp_path / "cert.pem", tmp_path / "key.pem")
    browser = ssl.create_default_context(cafile=str(trust.folder / "authorities" / "eu.pem"))

    async def visit() -> bytes:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readexactly(1))
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context) as listener:
            port = listener.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=browser)
            writer.write(b"x")
            answer = await reader.read(10)
            writer.close()
            return answer

    assert run(visit()) == b"x"  # type: ignore[arg-type, comparison-overlap]


# --- files


def test_own_identity_is_read_from_the_certificate(trust: Trust) -> None:
    ours = credentials(trust, "eu", Role.APP, "eu-1.fra")
    assert ours.identity == Identity("acme", "eu", Role.APP, "eu-1.fra")
    assert ours.known_jurisdictions() == ["eu", "global", "us"]


def test_a_renewed_certificate_is_read_anew(trust: Trust, tmp_path: Path) -> None:
    made = Forgery([ROUTER]).write(trust.authorities["eu"], tmp_path)
    assert made.identity.zone == "fra"
    Forgery(["spiffe://acme/eu/router/par"]).write(trust.authorities["eu"], tmp_path)
    assert made.identity.zone == "par"


@pytest.mark.parametrize(
    "content", [None, b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_certificate_that_cannot_be_read_is_one_clear_refusal(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "cert.pem").write_bytes(content)
    ours = Credentials(tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path)
    with pytest.raises(InvalidInput, match=str(tmp_path / "cert.pem")):
        _ = ours.identity


@pytest.mark.parametrize("case", ["two names", "no name", "no alternative name at all", "an unknown role"])
def test_a_certificate_of_nobody_is_one_clear_refusal(trust: Trust, tmp_path: Path, case: str) -> None:
    made = FORGERIES[case][1].write(trust.authorities["eu"], tmp_path)
    with pytest.raises(InvalidInput, match="not a certificate with one identity of ours"):
        _ = made.identity


def test_files_that_do_not_fit_are_one_clear_refusal(trust: Trust, tmp_path: Path) -> None:
    one, other = credentials(trust, "eu", Role.ROUTER, "fra"), credentials(trust, "eu", Role.KEYS, "fra")
    with pytest.raises(InvalidInput, match="private key"):
        Credentials(one.certificate, other.key, one.authorities).server(["eu"], [Role.APP])
    with pytest.raises(InvalidInput, match="private key"):
        Credentials(one.certificate, tmp_path / "none.pem", one.authorities).server(["eu"], [Role.APP])
    with pytest.raises(InvalidInput, match="no authority for jp"):
        one.client("jp", [Role.KEYS])
    with pytest.raises(InvalidInput, match="holds no authority"):
        one.server([], [Role.KEYS])
    (tmp_path / "eu.pem").write_bytes(b"junk")
    with pytest.raises(InvalidInput, match="the authority of eu cannot be read"):
        Credentials(one.certificate, one.key, tmp_path).client("eu", [Role.KEYS])


# --- authorities


def test_an_authority_is_saved_for_its_owner_alone_and_loads_again(tmp_path: Path) -> None:
    authority = Authority.create("acme", "eu")
    authority.save(tmp_path / "eu")
    assert {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "eu").iterdir()} == {
        "authority.key": 0o600,
        "authority.pem": 0o600,
    }
    assert (tmp_path / "eu").stat().st_mode & 0o777 == 0o700
    loaded = Authority.load(tmp_path / "eu", "acme", "eu")
    assert loaded.pem() == authority.pem()
    assert loaded.key.private_numbers() == authority.key.private_numbers()


@pytest.mark.parametrize(("deployment", "jurisdiction"), [("other", "eu"), ("acme", "us")])
def test_anothers_authority_is_not_loaded(tmp_path: Path, deployment: str, jurisdiction: str) -> None:
    Authority.create("acme", "eu").save(tmp_path)
    with pytest.raises(InvalidInput, match="another deployment or jurisdiction"):
        Authority.load(tmp_path, deployment, jurisdiction)


def test_a_broken_authority_is_not_loaded(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        Authority.load(tmp_path, "acme", "eu")
    Authority.create("acme", "eu").save(tmp_path)
    Authority.create("acme", "eu").save(tmp_path / "second")
    (tmp_path / "second" / "authority.key").replace(tmp_path / "authority.key")
    with pytest.raises(InvalidInput, match="not the key of"):
        Authority.load(tmp_path, "acme", "eu")
    (tmp_path / "authority.key").write_bytes(b"junk")
    with pytest.raises(InvalidInput, match="cannot be read"):
        Authority.load(tmp_path, "acme", "eu")


@pytest.mark.parametrize(("deployment", "jurisdiction"), [("other", "eu"), ("acme", "us"), ("acme", "global")])
def test_an_authority_signs_for_its_own_jurisdiction_only(trust: Trust, deployment: str, jurisdiction: str) -> None:
    with pytest.raises(InvalidInput, match="does not sign for"):
        trust.authorities["eu"].issue(Identity(deployment, jurisdiction, Role.ROUTER, "fra"), ["127.0.0.1"])
