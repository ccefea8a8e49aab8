"""A claim, from its wish to a stored pin: the thin shell around ``placement``, in one transaction.

Order of locks, the same for all: the topology (shared), then the subject by all of its keys, then the counts of one
jurisdiction, then the pin.
"""

from __future__ import annotations

from domicile.directory import placement
from domicile.directory.homes import live, next_epoch
from domicile.directory.storage import Storage
from domicile.directory.topology import PublishedTopology
from domicile.directory.transactions import SubjectTransaction
from domicile.model import Manifest, Pin, SubjectKey
from domicile.model.wire import ClaimRequest


async def claim(storage: Storage, topology: PublishedTopology, key: SubjectKey, wish: ClaimRequest) -> tuple[Pin, bool]:
    """The home of whoever ``key`` names, and whether this claim made it. First writer wins; repeating is harmless.

    A pin under another key of the same subject is the subject's, and is answered as it is. Whoever was erased may
    come back, wherever the claim says, above the epoch of before.

    Raises InvalidInput where nothing decides the jurisdiction, Conflict where the claim insists on another
    than the pin's or leaves out a pepper in use, Unavailable where no topology, no open cell or no database is there.
    """
    keys = [key, *wish.other_keys]
    async with storage.about(keys) as transaction:
        manifest = await topology.current(transaction)
        await transaction.check_named(keys)
        pins = await transaction.pins()
        while (pin := live(pins)) is None:
            mine = await _place(transaction, manifest, key, next_epoch(pins), wish)
            if mine is not None:
                return mine, True
            # an import or a reconciliation was first, with a pin or a higher tombstone; it has ended, or ours would
            # still wait for it
            pins = await transaction.pins()
        placement.check_agrees(manifest, wish, pin)
        return pin, False


async def _place(
    transaction: SubjectTransaction, manifest: Manifest, key: SubjectKey, epoch: int, wish: ClaimRequest
) -> Pin | None:
    jurisdiction = placement.jurisdiction_for(manifest, wish)
    weights = placement.open_cells(manifest, jurisdiction)
    held = await transaction.lock_round(jurisdiction)
    cell, after = placement.place(held, weights, key)
    pin = Pin(subject_key=key, jurisdiction=jurisdiction, cell=cell, epoch=epoch)
    if not await transaction.place(pin):
        return None
    await transaction.keep_round(jurisdiction, after)
    return pin
