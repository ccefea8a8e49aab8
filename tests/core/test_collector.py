"""Spans go to a collector where it may be, and nowhere else: by no name and by no redirect."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from domicile_testing.conditions import until
from domicile_testing.databases import free_port
from domicile_testing.routing import manifest_data
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from domicile.identity import Authority
from domicile.model import ManifestError, parse_manifest
from domicile.telemetry import REFUSALS
from domicile.telemetry.collector import otlp_exporter
from domicile.telemetry.traces import begin, start_tracing


class Collector:
    def __init__(self, folder: Path, host: str, answer: Callable[[], web.Response]) -> None:
        authority = Authority.create("outside", "outside")
        self.authorities = folder / f"{host}.pem"
        self.authorities.write_bytes(authority.pem())
        certificate, key = authority.issue_public([host, "localhost"])
        (folder / f"{host}-own.pem").write_bytes(certificate + key)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / f"{host}-own.pem")
        self._host = host
        self.port = free_port(host)
        self._answer = answer
        self.told: list[bytes] = []

    @asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        async def answer(request: web.Request) -> web.Response:
            self.told.append(await request.read())
            return self._answer()

        app = web.Application()
        app.router.add_route("*", "/{any:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, self._host, self.port, ssl_context=self._context).start()
        try:
            yield
        finally:
            await runner.cleanup()


async def exported(exporter: SpanExporter) -> SpanExportResult:
    memory = InMemorySpanExporter()
    stop = start_tracing("router-fra", "eu", memory, share=1.0)
    with begin("router.request"):
        pass
    stop()
    return await asyncio.to_thread(exporter.export, memory.get_finished_spans())


async def test_a_name_that_resolves_to_where_it_may_be_is_told(tmp_path: Path) -> None:
    collector = Collector(tmp_path, "127.0.0.1", web.Response)
    async with collector.served():
        exporter = otlp_exporter(
            f"https://localhost:{collector.port}", lambda host: host == "127.0.0.1", collector.authorities
        )
        assert await exported(exporter) is SpanExportResult.SUCCESS
        exporter.shutdown()
    assert b"router.request" in collector.told[0]


async def test_a_name_that_resolves_elsewhere_is_refused_and_counted(tmp_path: Path) -> None:
    def refusals() -> float:
        value: float = REFUSALS.labels("address-outside")._value.get()
        return value

    collector = Collector(tmp_path, "127.0.0.1", web.Response)
    before = refusals()
    async with collector.served():
        exporter = otlp_exporter(
            f"https://localhost:{collector.port}", lambda host: host.startswith("127.10."), collector.authorities
        )
        task = asyncio.create_task(exported(exporter))
        await until(lambda: refusals() > before)
        exporter.shutdown()  # or it would be tried again for a while
        assert await task is SpanExportResult.FAILURE
    assert collector.told == []


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_takes_nothing_elsewhere(
    tmp_path: Path, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    abroad = Collector(tmp_path, "127.0.0.2", web.Response)
    where = {"Location": f"https://127.0.0.2:{abroad.port}/v1/traces"}
    at_home = Collector(tmp_path, "127.0.0.1", lambda: web.Response(status=status, headers=where))
    both = tmp_path / "both.pem"
    both.write_bytes(at_home.authorities.read_bytes() + abroad.authorities.read_bytes())
    async with at_home.served(), abroad.served():
        exporter = otlp_exporter(f"https://127.0.0.1:{at_home.port}", lambda _: True, both)
        await exported(exporter)
        exporter.shutdown()
    assert "collector-redirects" in [record.msg for record in caplog.records]
    assert len(at_home.told) == 1
    assert abroad.told == []


def test_the_manifest_says_where_a_collector_may_be(tmp_path: Path) -> None:
    data = manifest_data(tmp_path)
    plain = parse_manifest(data)
    assert plain.may_collect("eu", "10.1.2.3")
    assert plain.may_collect("eu", "127.10.1.9")
    assert not plain.may_collect("eu", "127.20.1.9"), "a zone of us"
    assert not plain.may_collect("eu", "169.254.169.254")
    data["jurisdictions"]["eu"] |= {"collector": "https://c.example", "collector_networks": ["10.1.0.0/16"]}
    narrow = parse_manifest(data)
    assert narrow.may_collect("eu", "10.1.2.3")
    assert not narrow.may_collect("eu", "10.2.2.3")
    assert narrow.may_collect("us", "10.2.2.3")
    data["jurisdictions"]["eu"]["collector"] = "https://10.2.2.3"
    with pytest.raises(ManifestError, match=r"10\.2\.2\.3 lies in none of its networks"):
        parse_manifest(data)
