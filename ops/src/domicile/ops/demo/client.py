"""The demo's own browser: real HTTPS to the routers, with the addresses of real countries.

It knows where each public host is (as curl's ``--connect-to`` would) and follows a 307 only when told to.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from domicile.model.manifest import Address, Manifest
from domicile.ops.layout import Layout

DEADLINE_SECONDS: Final = 20.0


class _Hosts(AbstractResolver):
    def __init__(self, hosts: dict[str, str]) -> None:
        self._hosts = hosts

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if host not in self._hosts:
            raise OSError(f"no such host in this world: {host}")
        return [
            ResolveResult(
                hostname=host,
                host=self._hosts[host],
                port=port,
                family=socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
        ]

    async def close(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: ``body`` is the JSON document, or an empty one."""

    status: int
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def reason(self) -> str:
        """Status and, for a refusal, the code of its problem document."""
        code = self.body.get("code")
        return f"{self.status} {code}" if code else str(self.status)


class Browser:
    """Speaks to the routers of a world."""

    def __init__(self, manifest: Manifest, layout: Layout) -> None:
        hosts = {}
        for name, jurisdiction in manifest.jurisdictions.items():
            for router in manifest.routers_of(name).values():
                host = jurisdiction.public_host.rpartition(":")[0] or jurisdiction.public_host
                hosts[host] = Address(router.public).host
        context = ssl.create_default_context()
        for name in manifest.jurisdictions:
            context.load_verify_locations(layout.authorities / f"{name}.pem")
        self._connector = aiohttp.TCPConnector(ssl=context, resolver=_Hosts(hosts), limit=16)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=DEADLINE_SECONDS),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(
        self,
        method: str,
        host: str,
        path: str,
        *,
        body: dict[str, Any] | None = None,
        session: str | None = None,
        address: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request, as a client at ``address`` behind the edge; redirects come back as they are."""
        assert self._session is not None, "used inside async with"
        sent = dict(headers or {})
        if session is not None:
            sent["Authorization"] = f"Bearer {session}"
        if address is not None:
            sent["X-Forwarded-For"] = address
        url = host if host.startswith("https://") else f"https://{host}{path}"
        async with self._session.request(method, url, json=body, headers=sent, allow_redirects=False) as answer:
            text = await answer.read()
            is_json = "json" in answer.headers.get("Content-Type", "")
            document = await answer.json(content_type=None) if is_json and text else {}
            shaped = document if isinstance(document, dict) else {"items": document}
            return Answer(answer.status, dict(answer.headers), shaped)

    async def follow(self, method: str, host: str, path: str, **options: Any) -> tuple[Answer, int]:
        """``send``, going where a 307 says, at most twice; the answer and how many redirects there were."""
        answer = await self.send(method, host, path, **options)
        hops = 0
        while answer.status == 307 and hops < 2:
            hops += 1
            answer = await self.send(method, answer.headers["Location"], "", **options)
        return answer, hops
