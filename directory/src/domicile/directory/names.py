"""By what a subject is named: its aliases, its key under another pepper, and the end of all of its names.

Each is asked for by the home cell's own processes, and is one transaction that nobody else changes the subject in.
"""

from __future__ import annotations

from domicile.directory.homes import ERASED_STEP, RENAMED_STEP, check_active, check_home
from domicile.directory.storage import Storage
from domicile.directory.transactions import SubjectTransaction
from domicile.model import AliasKey, Conflict, Identity, Pin, PinState, SubjectKey, UnknownSubject
from domicile.model.wire import AliasRequest, RekeyRequest


async def put_alias(storage: Storage, kind: str, alias: AliasKey, wish: AliasRequest, peer: Identity) -> bool:
    """Give an alias to a subject at home in ``peer``'s cell; whether it is new.

    One that the subject holds by its key under another pepper is named by ``alias`` from now on. Raises Conflict for
    another subject's, or where a pepper in use is left out; UnknownSubject, WrongCell.
    """
    keys = [alias, *wish.other_keys]
    async with storage.about([wish.subject_key]) as transaction:
        await _check_named_by(transaction, wish.subject_key, peer)
        await transaction.check_named(keys)
        return await transaction.put_alias(kind, keys, wish.subject_key)


async def delete_alias(storage: Storage, kind: str, alias: AliasKey, key: SubjectKey, peer: Identity) -> None:
    """Take an alias from a subject at home in ``peer``'s cell; harmless where it is not its own.

    Raises UnknownSubject, also for the key that a subject had before: the aliases went with it. Raises WrongCell.
    """
    async with storage.about([key]) as transaction:
        await _check_named_by(transaction, key, peer)
        await transaction.delete_alias(kind, alias, key)


async def release_aliases(storage: Storage, key: SubjectKey, peer: Identity) -> None:
    """Take every alias from a subject at home in ``peer``'s cell; harmless to repeat. Raises as ``delete_alias``."""
    async with storage.about([key]) as transaction:
        await _check_named_by(transaction, key, peer)
        await transaction.release_aliases(key)


async def _check_named_by(transaction: SubjectTransaction, key: SubjectKey, peer: Identity) -> None:
    pin = (await transaction.pins()).get(key)
    if pin is None or pin.state is PinState.ERASED:
        raise UnknownSubject("the subject has no pin")
    check_home(pin, peer)


async def erase(storage: Storage, key: SubjectKey, epoch: int, peer: Identity) -> Pin:
    """Leave a tombstone of a subject at home in ``peer``'s cell, and release its aliases; harmless to repeat.

    ``epoch``: the one that the pin must be at, since somebody may have come back meanwhile: Conflict otherwise, and for
    the key that a subject had before another pepper.
    """
    async with storage.about([key]) as transaction:
        pin = (await transaction.pins()).get(key)
        if pin is None:
            raise UnknownSubject("the subject has no pin")
        check_home(pin, peer)
        if pin.state is PinState.ERASED and pin.epoch == epoch + ERASED_STEP:
            return pin
        check_active(pin, peer)
        if pin.epoch != epoch:
            raise Conflict(f"the subject's pin is at epoch {pin.epoch}, not {epoch}")
        await transaction.release_aliases(key)
        return await transaction.erase(pin, ERASED_STEP)


async def rekey(storage: Storage, key: SubjectKey, wish: RekeyRequest, peer: Identity) -> Pin:
    """The pin of a subject at home in ``peer``'s cell, named by its key under another pepper; harmless to repeat.

    It stays at its cell and epoch, so that nobody who is being served is refused; the key before gets a tombstone, and
    what was an alias of one is an alias of the other. Where the successor has a tombstone itself, because a rotation
    is being undone, the epoch goes above it. With its own key as successor only its aliases are renamed. An alias that
    is not the subject's any more stays so. Raises Conflict for a key by a pepper that is not announced.
    """
    async with storage.about([key, wish.successor]) as transaction:
        await transaction.check_announced({wish.successor[0], *(alias.successor[0] for alias in wish.aliases)})
        pins = await transaction.pins()
        old, new = pins.get(key), pins.get(wish.successor)
        if old is None:
            raise UnknownSubject("the subject has no pin")
        if new is not None and new.state is not PinState.ERASED and (old.state is PinState.ERASED or new == old):
            check_active(new, peer)
        else:
            check_active(old, peer)
            if new is not None and new.state is not PinState.ERASED:
                raise Conflict("the successor is another subject's key")
            epoch = old.epoch if new is None else max(old.epoch, new.epoch + 1)
            new = old.model_copy(update={"subject_key": wish.successor, "epoch": epoch})
            if not await transaction.place(new):
                raise Conflict("the successor was given a pin meanwhile")
            await transaction.move_aliases(key, wish.successor)
            await transaction.erase(old, RENAMED_STEP)
        for alias in wish.aliases:
            await transaction.rename_alias(alias.kind, alias.alias_key, alias.successor, wish.successor)
        return new
