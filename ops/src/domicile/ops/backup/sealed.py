"""The form of what lies in a target: a head that says whose it is, then compressed data in authenticated segments.

Encryption is Tink's AES256_GCM_HKDF streaming AEAD (Hoang, Reyhanitabar, Rogaway and Vizar, CRYPTO 2015; segments of
1 MiB), the head its associated data, the data in it Zstandard. A segment that was altered, moved, left out or cut off
is refused when it is read. Each object has a key of its own, which Tink derives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, BinaryIO, Final, TypeVar, cast

from pydantic import ValidationError
from tink import TinkError, cleartext_keyset_handle, streaming_aead
from tink.proto import aes_gcm_hkdf_streaming_pb2, common_pb2, tink_pb2

from domicile.model.errors import InvalidInput
from domicile.model.key_wire import WrappedKey
from domicile.model.pins import Frozen
from domicile.ops.backup.targets import unusable
from domicile.ops.packing import zstd

MAGIC: Final = b"\xd0\x4dB\x01"
MAX_HEAD_BYTES: Final = 16 * 1024
SEGMENT_BYTES: Final = 1 << 20
LEVEL: Final = 3
_Result = TypeVar("_Result")
_TYPE: Final = "type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey"


class Head(Frozen):
    """In clear, and bound to what follows. ``system``: PostgreSQL's identifier of the database; ``name``: which
    object of it this is; ``key``: what opens it, wrapped."""

    deployment: str
    jurisdiction: str
    database: str
    system: str
    name: str
    key: WrappedKey

    def framed(self) -> bytes:
        text = self.model_dump_json().encode()
        return MAGIC + len(text).to_bytes(4, "big") + text


class _Kept:
    """A stream that whoever opened it closes: Tink closes what it writes to, and says of a fault only that it was one.

    ``fault``: what the system said first.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.fault: OSError | None = None

    def write(self, data: bytes) -> int:
        return self._told(lambda: self._stream.write(data))

    def read(self, size: int = -1) -> bytes:
        return self._told(lambda: self._stream.read(size))

    def flush(self) -> None:
        self._told(self._stream.flush)

    def _told(self, work: Callable[[], _Result]) -> _Result:
        try:
            return work()
        except OSError as error:
            self.fault = self.fault or error
            raise

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        pass


@cache
def _registered() -> None:
    streaming_aead.register()


def _cipher(key: bytes) -> Any:
    _registered()
    parameters = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingParams(
        ciphertext_segment_size=SEGMENT_BYTES, derived_key_size=32, hkdf_hash_type=common_pb2.SHA256
    )
    streaming = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKey(version=0, key_value=key, params=parameters)
    keyset = tink_pb2.Keyset(primary_key_id=1)
    keyset.key.add(
        key_data=tink_pb2.KeyData(
            type_url=_TYPE, value=streaming.SerializeToString(), key_material_type=tink_pb2.KeyData.SYMMETRIC
        ),
        status=tink_pb2.ENABLED,
        key_id=1,
        output_prefix_type=tink_pb2.RAW,
    )
    return cleartext_keyset_handle.from_keyset(keyset).primitive(streaming_aead.StreamingAead)


@contextmanager
def sealing(sink: BinaryIO, head: Head, key: bytes) -> Iterator[BinaryIO]:
    """A stream whose bytes go to ``sink`` sealed; complete only when the context is left without an error.

    Raises Unavailable where the sink takes no more.
    """
    framed = head.framed()
    kept = _Kept(sink)
    try:
        kept.write(framed)
        with _cipher(key).new_encrypting_stream(kept, framed) as outer:
            inner = zstd.ZstdFile(outer, "w", level=LEVEL)
            try:
                yield cast("BinaryIO", inner)
            except BaseException:
                with suppress(TinkError, OSError):  # what is not whole is thrown away
                    inner.close()
                raise
            inner.close()
    except (TinkError, OSError):
        if kept.fault is None:
            raise
        raise unusable(kept.fault, head.name) from None


def read_head(source: BinaryIO, where: str) -> Head:
    """What an object says it is; believed only once its data opens. Raises InvalidInput for no object of ours."""
    start = source.read(len(MAGIC) + 4)
    size = int.from_bytes(start[len(MAGIC) :], "big")
    if start[: len(MAGIC)] != MAGIC or size > MAX_HEAD_BYTES:
        raise InvalidInput("is no backup of ours", where=where)
    try:
        return Head.model_validate_json(source.read(size))
    except ValidationError:
        raise InvalidInput("is a backup whose head is damaged", where=where, remedy="use another one") from None


@contextmanager
def opening(source: BinaryIO, head: Head, key: bytes, where: str) -> Iterator[BinaryIO]:
    """The data of an object whose head was read; on leaving, what was not read is checked, too.

    Raises InvalidInput for data that is not whole, or not what was written under this head and key; Unavailable where
    it can't be read.
    """
    kept = _Kept(source)
    try:
        with (
            _cipher(key).new_decrypting_stream(kept, head.framed()) as outer,
            zstd.ZstdFile(outer) as inner,
        ):
            yield cast("BinaryIO", inner)
            while inner.read(SEGMENT_BYTES):
                pass
            while outer.read(SEGMENT_BYTES):
                pass
    except (TinkError, zstd.ZstdError, EOFError):
        if kept.fault is not None:
            raise unusable(kept.fault, where) from None
        raise InvalidInput(
            "was altered, cut short, or is under another key", where=where, remedy="use another one"
        ) from None
