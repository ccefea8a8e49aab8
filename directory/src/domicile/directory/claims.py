"""A claim, from its wish to a stored pin: the thin shell around ``placement``, in one transaction.

Order of locks, the same for all: the topology (shared), then the counts of one jurisdiction, then the pin. Two
claims of one subject in two jurisdictions meet at the pin, where neither holds what the other waits for.
"""

from __future__ import annotations

from domicile.directory import placement
from domicile.directory.storage import ClaimTransaction, Storage
from domicile.directory.topology import PublishedTopology
from domicile.model import Manifest, Pin, SubjectKey
from domicile.model.wire import ClaimRequest

FIRST_EPOCH = 1


async def claim(storage: Storage, topology: PublishedTopology, key: SubjectKey, wish: ClaimRequest) -> tuple[Pin, bool]:
    """The home of ``key`` and whether this claim made it. First writer wins; repeating a claim is harmless.

    Raises InvalidInput where nothing decides the jurisdiction, Conflict where the claim insists on another
    than the pin's, Unavailable where no topology, no open cell or no database is there.
    """
    async with storage.claiming() as transaction:
        manifest = await topology.current(transaction)
        pin = await transaction.pin(key)
        if pin is None:
            mine = await _place(transaction, manifest, key, wish)
            if mine is not None:
                return mine, True
            # another claim was first; it has ended, or ours would still wait for it
            pin = await transaction.pin(key)
            assert pin is not None
        placement.check_agrees(manifest, wish, pin)
        return pin, False


async def _place(transaction: ClaimTransaction, manifest: Manifest, key: SubjectKey, wish: ClaimRequest) -> Pin | None:
    jurisdiction = placement.jurisdiction_for(manifest, wish)
    weights = placement.open_cells(manifest, jurisdiction)
    held = await transaction.lock_round(jurisdiction)
    cell, after = placement.place(held, weights, key)
    pin = Pin(subject_key=key, jurisdiction=jurisdiction, cell=cell, epoch=FIRST_EPOCH)
    if not await transaction.add_pin(pin):
        return None
    await transaction.keep_round(jurisdiction, after)
    return pin
