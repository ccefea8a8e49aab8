"""The transit backend against a double that answers as published exchanges do, in the shapes of OpenBao's source.

**Unverified**: no Vault or OpenBao server installs from a package registry; none was asked. The double keeps what the
API says (the envelope of each answer, ``reference``, status 400 for a batch of which an item failed, a ciphertext that
is nonce, text and tag of AES-256-GCM behind ``vault:v<version>:``). What is certain is what we send, and that nothing
but the documented answer is believed.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from domicile_testing import Trust, free_port
from pydantic import ValidationError

from domicile.cells.keys.holders import Plain, Wrapped
from domicile.cells.keys.transit import TransitHolder, read_token
from domicile.identity import public_server
from domicile.model import InvalidInput, KeyWithheld
from domicile.model.key_domains import TransitKey

TOKEN = "hvs.a-token"
ONE, TWO = Plain(b"context one", b"k" * 64), Plain(b"context two", b"l" * 64)


def enveloped(data: dict[str, Any]) -> dict[str, Any]:
    """As every answer with a body is."""
    return {
        "request_id": "0b3c6a5e-6b0f-4bd5-a1e7-3f1d2f5ad1f2",
        "lease_id": "",
        "renewable": False,
        "lease_duration": 0,
        "data": data,
        "wrap_info": None,
        "warnings": None,
        "auth": None,
    }


@dataclass
class Transit:
    """Real ciphers, keys of its own. ``wrong`` replaces its next answers; ``older``: as servers of before answer."""

    keys: dict[int, AESGCM] = field(default_factory=lambda: {1: AESGCM(os.urandom(32))})
    wrong: web.Response | None = None
    older: bool = False
    asked: list[tuple[str, str, Any]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        raw = await request.read()
        body: Any = json.loads(raw) if raw else None
        self.asked.append((request.method, request.path, body))
        if request.headers.get("X-Vault-Token") != TOKEN:
            return web.json_response({"errors": ["1 error occurred:\n\t* permission denied\n\n"]}, status=403)
        if self.wrong is not None:
            return self.wrong
        operation = request.path.removeprefix("/v1/transit/")
        if operation == "keys/bank":
            return web.json_response(enveloped(self.described()))
        if operation == "keys/bank/rotate":
            self.keys[max(self.keys) + 1] = AESGCM(os.urandom(32))
            return web.Response(status=204) if self.older else web.json_response(enveloped(self.described()))
        items = [self.one(operation, item) for item in body["batch_input"]]
        failed = any("error" in item for item in items)
        return web.json_response(enveloped({"batch_results": items}), status=400 if failed else 200)

    def described(self) -> dict[str, Any]:
        versions = {str(version): 1442851412 for version in self.keys}
        told = {"type": "aes256-gcm96", "name": "bank", "min_decryption_version": 1, "keys": versions}
        return told if self.older else told | {"latest_version": max(self.keys)}

    def one(self, operation: str, item: dict[str, str]) -> dict[str, Any]:
        context = base64.b64decode(item["associated_data"])
        if operation == "encrypt/bank":
            version, nonce = max(self.keys), os.urandom(12)
            packed = nonce + self.keys[version].encrypt(nonce, base64.b64decode(item["plaintext"]), context)
            text = f"vault:v{version}:{base64.b64encode(packed).decode()}"
            return {"ciphertext": text, "key_version": version, "reference": ""}
        assert operation == "decrypt/bank"
        _, version_text, text = item["ciphertext"].split(":")
        packed = base64.b64decode(text)
        try:
            plain = self.keys[int(version_text[1:])].decrypt(packed[:12], packed[12:], context)
        except InvalidTag:
            return {"plaintext": "", "error": "cipher: message authentication failed", "reference": ""}
        return {"plaintext": base64.b64encode(plain).decode(), "reference": ""}


@asynccontextmanager
async def transit(trust: Trust, tmp_path: Path, token: str = TOKEN) -> AsyncIterator[tuple[Transit, TransitHolder]]:
    double, port = Transit(), free_port()
    certificate, key = trust.authorities["eu"].issue_public(["localhost"])
    (tmp_path / "cert.pem").write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(key)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", double.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    context = public_server(tmp_path / "cert.pem", tmp_path / "key.pem")
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
    place = TransitKey(address=f"https://localhost:{port}", key="bank")
    holder = TransitHolder(place, token, trust.folder / "authorities" / "eu.pem")
    try:
        yield double, holder
    finally:
        await holder.close()
        await runner.cleanup()


async def test_a_batch_is_wrapped_and_unwrapped_in_one_exchange_each(trust: Trust, tmp_path: Path) -> None:
    async with transit(trust, tmp_path) as (double, holder):
        wrapped = await holder.wrap([ONE, TWO])
        assert await holder.unwrap(wrapped[::-1]) == [TWO.value, ONE.value]
    assert [key.version for key in wrapped] == [1, 1]
    assert double.asked[0] == (
        "POST",
        "/v1/transit/encrypt/bank",
        {
            "batch_input": [
                {
                    "plaintext": base64.b64encode(key.value).decode(),
                    "associated_data": base64.b64encode(key.context).decode(),
                }
                for key in (ONE, TWO)
            ]
        },
    )
    assert [call[1] for call in double.asked] == ["/v1/transit/encrypt/bank", "/v1/transit/decrypt/bank"]


async def test_another_context_opens_nothing(trust: Trust, tmp_path: Path) -> None:
    async with transit(trust, tmp_path) as (_, holder):
        (wrapped,) = await holder.wrap([ONE])
        with pytest.raises(KeyWithheld):
            await holder.unwrap([wrapped._replace(context=TWO.context)])


async def test_the_published_exchange_of_a_key_is_understood(trust: Trust, tmp_path: Path) -> None:
    """The sample of "Read key" in the API's documentation, in the fields that it has."""
    published = {
        "type": "aes256-gcm96",
        "deletion_allowed": False,
        "derived": False,
        "exportable": False,
        "allow_plaintext_backup": False,
        "keys": {"1": 1442851412},
        "min_decryption_version": 1,
        "min_encryption_version": 0,
        "name": "foo",
        "supports_encryption": True,
        "supports_decryption": True,
        "supports_derivation": True,
        "supports_signing": False,
        "imported_key": False,
    }
    async with transit(trust, tmp_path) as (double, holder):
        double.wrong = web.json_response({"data": published})
        assert await holder.version() == 1
        double.wrong = web.json_response({"data": published | {"keys": {}}})
        with pytest.raises(KeyWithheld):
            await holder.version()


@pytest.mark.parametrize("older", [False, True])
async def test_a_rotation_begins_a_version_there(trust: Trust, tmp_path: Path, older: bool) -> None:
    async with transit(trust, tmp_path) as (double, holder):
        double.older = older
        (old,) = await holder.wrap([ONE])
        assert (await holder.version(), await holder.rotate(), await holder.version()) == (1, 2, 2)
        (new,) = await holder.wrap([ONE])
        assert (old.version, new.version) == (1, 2)
        assert await holder.unwrap([old, new]) == [ONE.value] * 2


@pytest.mark.parametrize(
    "wrong",
    [
        web.json_response({"errors": ["Vault is sealed"]}, status=503),
        web.json_response({"errors": ["permission denied"]}, status=403),
        web.Response(status=307, headers={"Location": "https://elsewhere.example/"}),
        web.Response(body=b"<html>"),
        web.json_response({"data": {"batch_results": []}}),
        web.json_response({"data": {"batch_results": [{"plaintext": "%%", "ciphertext": "v1:x"}]}}),
        web.json_response({"data": {"latest_version": 0, "batch_results": [{"error": "no"}]}}),
        web.Response(body=b"x" * (5 << 20)),
    ],
    ids=["sealed", "denied", "redirect", "no JSON", "none", "no base64", "error", "too long"],
)
async def test_no_other_answer_is_believed(trust: Trust, tmp_path: Path, wrong: web.Response) -> None:
    async with transit(trust, tmp_path) as (double, holder):
        (wrapped,) = await holder.wrap([ONE])
        for ask in (lambda: holder.wrap([ONE]), lambda: holder.unwrap([wrapped]), holder.version):
            double.wrong = web.Response(status=wrong.status, body=wrong.body, headers=wrong.headers)
            with pytest.raises(KeyWithheld) as caught:
                await ask()
            assert "sealed" not in str(caught.value)
            assert "elsewhere" not in str(caught.value)


async def test_a_wrong_token_and_another_authority_are_withheld(trust: Trust, tmp_path: Path) -> None:
    async with transit(trust, tmp_path, token="hvs.other") as (double, holder):
        with pytest.raises(KeyWithheld):
            await holder.version()
        port = holder._base.split(":")[2].split("/")[0]
        place = TransitKey(address=f"https://localhost:{port}", key="bank")
        stranger = TransitHolder(place, TOKEN, trust.folder / "authorities" / "us.pem")
        asked = len(double.asked)
        with pytest.raises(KeyWithheld):
            await stranger.unwrap([Wrapped(b"", 1, b"vault:v1:AAAA")])
        await stranger.close()
        assert len(double.asked) == asked


def test_a_token_comes_from_a_file_and_an_address_is_https(tmp_path: Path) -> None:
    path = tmp_path / "token"
    for content in (None, b"", b"two words", b"\xff"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InvalidInput):
            read_token(path)
    with pytest.raises(InvalidInput, match="DOMICILE_TRANSIT_TOKEN"):
        read_token(None)
    path.write_text(TOKEN + "\n")
    assert read_token(path) == TOKEN
    with pytest.raises(ValidationError):
        TransitKey(address="http://localhost:1", key="bank")
