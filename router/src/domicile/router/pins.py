"""Whose pin is what: by the router's own replica, or by the directory, and by whichever of a subject's keys."""

from __future__ import annotations

import asyncio
from typing import Protocol

from domicile.model import Pin, PinState, SubjectKey, UnknownSubject
from domicile.router.replica import Replica


class PinSource(Protocol):
    """The directory, as far as a router resolves by it."""

    async def pin(self, key: SubjectKey, *, fresh: bool = False) -> Pin:
        """Raises UnknownSubject, which is remembered unless ``fresh``, or Unavailable."""
        ...

    def forget_unknown(self, key: SubjectKey) -> None: ...


class Pins:
    """Resolves subject keys: the replica, else the directory."""

    def __init__(self, replica: Replica, directory: PinSource) -> None:
        self._replica = replica
        self._directory = directory

    def known(self, *keys: SubjectKey) -> Pin | None:
        """What the replica has of a subject, by whichever of its keys: the live pin before a tombstone."""
        if len(keys) == 1:
            return self._replica.get(keys[0])
        for key in keys:
            pin = self._replica.get(key)
            if pin is not None and pin.state is not PinState.ERASED:
                return pin
        # with a key of another pepper unheard of, a tombstone may only say that the subject was given that one
        return None

    async def ask(self, *keys: SubjectKey) -> Pin | None:
        """What the directory says of a subject that is not known, or said just now. Raises Unavailable."""
        return await self._ask(*keys, fresh=False)

    async def refresh(self, *keys: SubjectKey) -> Pin | None:
        """Ask the directory, whatever is known here. Raises Unavailable."""
        return await self._ask(*keys, fresh=True)

    async def _ask(self, *keys: SubjectKey, fresh: bool) -> Pin | None:
        tombstone: Pin | None = None
        for key in keys:
            pin = await self._ask_for(key, fresh=fresh)
            if pin is not None and pin.state is not PinState.ERASED:
                return pin
            tombstone = pin or tombstone
        return tombstone

    async def _ask_for(self, key: SubjectKey, *, fresh: bool) -> Pin | None:
        try:
            pin = await self._directory.pin(key, fresh=fresh)
        except UnknownSubject:
            return None
        return await asyncio.to_thread(self._replica.put, pin)

    def forget_unknown(self, *keys: SubjectKey) -> None:
        """The subject may have signed up just now."""
        for key in keys:
            self._directory.forget_unknown(key)
