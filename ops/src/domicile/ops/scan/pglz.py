"""PostgreSQL's own compression (pg_lzcompress.c): a byte of eight flags, then eight literals or copies.

A copy is two bytes, or three: offset 1 to 4095 back, length 3 to 273. It bears no header: the size comes from outside.
"""

from __future__ import annotations

from typing import Final

_SHORT: Final = 18
_FARTHEST: Final = 4095
_LONGEST: Final = 273


def decompress(packed: bytes, size: int) -> tuple[bytes, bool]:
    """What can be had of ``size`` bytes, and whether that is all and nothing of ``packed`` is left."""
    out = bytearray()
    place, end = 0, len(packed)
    while place < end and len(out) < size:
        flags = packed[place]
        place += 1
        if not flags:
            out += packed[place : place + 8]
            place += 8
            continue
        for _ in range(8):
            if place >= end or len(out) >= size:
                break
            if flags & 1:
                if place + 1 >= end:
                    return bytes(out[:size]), False
                length = (packed[place] & 0x0F) + 3
                offset = (packed[place] & 0xF0) << 4 | packed[place + 1]
                place += 2
                if length == _SHORT:
                    if place >= end:
                        return bytes(out[:size]), False
                    length += packed[place]
                    place += 1
                start = len(out) - offset
                if offset == 0 or start < 0:
                    return bytes(out[:size]), False
                if offset >= length:
                    out += out[start : start + length]
                else:
                    out += (out[start:] * (length // offset + 1))[:length]
            else:
                out.append(packed[place])
                place += 1
            flags >>= 1
    return bytes(out[:size]), len(out) == size and place >= end


def compress(raw: bytes) -> bytes:
    """For controls alone: the last occurrence of each three bytes is what is copied from."""
    seen: dict[bytes, int] = {}
    out, group, flags, count = bytearray(), bytearray(), 0, 0
    place = 0
    while place < len(raw):
        start = seen.get(raw[place : place + 3], -1)
        length = 0
        if start >= 0 and place - start <= _FARTHEST:
            while length < min(_LONGEST, len(raw) - place) and raw[start + length] == raw[place + length]:
                length += 1
        if length >= 3:
            offset, flags = place - start, flags | 1 << count
            low = min(length - 3, _SHORT - 3)
            group += bytes([offset >> 4 & 0xF0 | low, offset & 0xFF])
            group += bytes([length - _SHORT]) if length >= _SHORT else b""
        else:
            length = 1
            group.append(raw[place])
        seen[raw[place : place + 3]] = place
        place += length
        count += 1
        if count == 8 or place >= len(raw):
            out += bytes([flags]) + group
            group, flags, count = bytearray(), 0, 0
    return bytes(out)
