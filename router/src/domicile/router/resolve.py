"""From who a request is for to the pin that counts for it: by the replica, else by the directory."""

from __future__ import annotations

from typing import Final

from domicile.model import Identity, Pin, Unavailable
from domicile.router.decide import Listener
from domicile.router.identify import Identified
from domicile.router.pins import Pins
from domicile.router.shedding import Caller, Shedder

_KNOWN: Final = Caller.KNOWN
_INTERNAL: Final = Listener.INTERNAL


class Resolver:
    """Look-ups that miss the replica are the first to be turned away."""

    def __init__(self, pins: Pins, vantage: Identity, shedder: Shedder) -> None:
        self._pins = pins
        self._vantage = vantage
        self._shedder = shedder

    def glance(self, who: Identified, listener: Listener) -> Pin | None:
        """What ``pin`` finds, where the replica has it and nothing says that it is old; else None.

        Raises Unavailable where too much is to be done.
        """
        pin = self._pins.known(*who.keys)
        if pin is None or self._stale(pin, who, listener):
            return None
        self._shedder.admit(_KNOWN)
        return pin

    def _stale(self, pin: Pin, who: Identified, listener: Listener) -> bool:
        # a token by a router that knows better, or another router that sent the subject here
        return (who.token is not None and who.token.epoch > pin.epoch) or (
            listener is _INTERNAL and pin.jurisdiction != self._vantage.jurisdiction
        )

    async def pin(self, who: Identified, *, pinned: bool, listener: Listener) -> Pin | None:
        """Raises Unavailable where a pinned path needs a pin that only the directory has, or too much is to be done."""
        if not who.keys:
            self._shedder.admit(Caller.UNPINNED)
            return None
        pin = self._pins.known(*who.keys)
        self._shedder.admit(Caller.KNOWN if pin is not None else Caller.LOOK_UP)
        if pin is None:
            try:
                pin = await self._pins.ask(*who.keys)
            except Unavailable:
                if pinned:
                    raise
                return None
        if pin is not None and self._stale(pin, who, listener):
            try:
                return await self._pins.refresh(*who.keys)
            except Unavailable:
                pass
        return pin
