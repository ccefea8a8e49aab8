"""A key in the transit engine of HashiCorp Vault or OpenBao, over HTTPS.

Written to their published API (``/v1/<mount>/encrypt|decrypt|keys/<key>``, batches, associated data) and tested
against exchanges as it records them, and as OpenBao's source shapes them: unverified against a running server. The key
must be of an AEAD type (``aes256-gcm96``), since what a wrapped key is bound to travels as associated data.
"""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
from pydantic import BaseModel, Field, ValidationError

from domicile.cells.keys.holders import Plain, Wrapped
from domicile.model import InvalidInput, KeyWithheld
from domicile.model.key_domains import TransitKey

MAX_ANSWER_BYTES: Final = 4 << 20
TOKEN_HEADER: Final = "X-Vault-Token"
_CIPHERTEXT: Final = re.compile(r"vault:v([1-9][0-9]{0,8}):[A-Za-z0-9+/=]+")


class _Item(BaseModel):
    ciphertext: str = ""
    plaintext: str = Field(default="", repr=False)
    error: str = ""


class _Batch(BaseModel):
    batch_results: list[_Item]


class _Key(BaseModel):
    """``keys``: when each version began; the published exchange has no ``latest_version``, servers do."""

    latest_version: int | None = Field(default=None, ge=1)
    keys: dict[int, Any] = Field(default_factory=dict)

    @property
    def version(self) -> int:
        if not self.latest_version and not self.keys:
            raise KeyWithheld("an answer of another shape")
        return self.latest_version or max(self.keys)


class _BatchAnswer(BaseModel):
    data: _Batch


class _KeyAnswer(BaseModel):
    data: _Key


Answer = TypeVar("Answer", bound=BaseModel)


def read_token(path: Path | None) -> str:
    """Raises InvalidInput for no file, or no token in it."""
    if path is None:
        raise InvalidInput("is not set", where="DOMICILE_TRANSIT_TOKEN", remedy="name the file of the token")
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        raise InvalidInput("cannot be read", where=str(path), remedy="see DOMICILE_TRANSIT_TOKEN") from None
    if not re.fullmatch(r"[\x21-\x7e]{1,1024}", token):
        raise InvalidInput("holds no token", where=str(path), remedy="see DOMICILE_TRANSIT_TOKEN")
    return token


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


class TransitHolder:
    """The key of one domain. Raises KeyWithheld for every answer that isn't the one asked for."""

    def __init__(self, place: TransitKey, token: str, authority: Path | None) -> None:
        self._base = f"{place.address.rstrip('/')}/v1/{place.mount}"
        self._key = place.key
        self._token = token
        try:
            self._tls = ssl.create_default_context(cafile=authority)
        except OSError:
            raise InvalidInput(
                "cannot be read", where=str(authority), remedy="see DOMICILE_TRANSIT_AUTHORITY"
            ) from None
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def version(self) -> int:
        return (await self._ask(_KeyAnswer, "GET", f"keys/{self._key}")).data.version

    async def wrap(self, keys: Sequence[Plain]) -> list[Wrapped]:
        batch = [{"plaintext": _base64(key.value), "associated_data": _base64(key.context)} for key in keys]
        items = await self._batch("encrypt", batch)
        return [Wrapped(key.context, *_taken_apart(item.ciphertext)) for key, item in zip(keys, items, strict=True)]

    async def unwrap(self, keys: Sequence[Wrapped]) -> list[bytes]:
        batch = [{"ciphertext": key.value.decode(), "associated_data": _base64(key.context)} for key in keys]
        items = await self._batch("decrypt", batch)
        try:
            return [base64.b64decode(item.plaintext, validate=True) for item in items]
        except ValueError:
            raise KeyWithheld("answered with what is not base64") from None

    async def rotate(self) -> int:
        await self._call("POST", f"keys/{self._key}/rotate", {})
        return await self.version()

    async def _batch(self, operation: str, batch: list[dict[str, str]]) -> list[_Item]:
        answer = await self._ask(_BatchAnswer, "POST", f"{operation}/{self._key}", {"batch_input": batch})
        items = answer.data.batch_results
        if len(items) != len(batch) or any(item.error for item in items):
            raise KeyWithheld("did not serve every key of a batch")
        return items

    async def _ask(self, shape: type[Answer], method: str, path: str, body: Any = None) -> Answer:
        try:
            return shape.model_validate_json(await self._call(method, path, body))
        except ValidationError:
            raise KeyWithheld("an answer of another shape") from None

    async def _call(self, method: str, path: str, body: Any = None) -> bytes:
        """The answer's body; what an error says is its server's text, and stays there."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls), trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
            )
        try:
            async with self._session.request(
                method,
                f"{self._base}/{path}",
                json=body,
                headers={TOKEN_HEADER: self._token},
                allow_redirects=False,
            ) as response:
                raw = await response.content.read(MAX_ANSWER_BYTES + 1)
                while len(raw) <= MAX_ANSWER_BYTES and (more := await response.content.read(MAX_ANSWER_BYTES)):
                    raw += more
                if response.status >= 300 or len(raw) > MAX_ANSWER_BYTES:
                    raise KeyWithheld(f"answered {response.status}")
                return raw
        except (aiohttp.ClientError, ConnectionError, asyncio.IncompleteReadError) as error:
            raise KeyWithheld(f"cannot be reached ({type(error).__name__})") from None


def _taken_apart(ciphertext: str) -> tuple[int, bytes]:
    """Version and whole text of ``vault:v<version>:<base64>``."""
    match = _CIPHERTEXT.fullmatch(ciphertext)
    if match is None:
        raise KeyWithheld("answered with what is no ciphertext")
    return int(match[1]), ciphertext.encode()
