"""What a transaction lets through: one call at a time, none after one that failed, none after its block.

PostgreSQL keeps to the same, and its driver's errors sound as if the storage were out of reach. Every store asks here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from domicile.model.errors import Conflict, InvalidInput

Given = ParamSpec("Given")
Answer = TypeVar("Answer")


class Turns:
    """Of one transaction."""

    def __init__(self) -> None:
        self._busy = self._failed = self._over = False

    @contextmanager
    def block(self) -> Iterator[None]:
        """The transaction's. Raises Conflict at its end where a statement had failed, InvalidInput where one runs."""
        try:
            yield
            if self._busy:
                raise InvalidInput("the transaction's block ended before a call in it", remedy="await each call")
            if self._failed:
                raise _rolled_back()
        finally:
            self._over = True

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One call. Raises Conflict where the transaction is over or has failed, InvalidInput while another runs."""
        if self._over:
            raise Conflict("the transaction is over", remedy="call it within its block")
        if self._failed:
            raise _rolled_back()
        if self._busy:
            raise InvalidInput("two calls at a time in one transaction", remedy="await one after the other")
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    @contextmanager
    def statement(self) -> Iterator[None]:
        """What is raised within fails the whole transaction."""
        try:
            yield
        except BaseException:
            self._failed = True
            raise


def _rolled_back() -> Conflict:
    return Conflict("a statement of the transaction had failed: it is rolled back", remedy="begin another")


class _Taking(Protocol):
    @property
    def turns(self) -> Turns: ...


Taking = TypeVar("Taking", bound=_Taking)


def in_turn(
    method: Callable[Concatenate[Taking, Given], Awaitable[Answer]],
) -> Callable[Concatenate[Taking, Given], Coroutine[Any, Any, Answer]]:
    """A method of a transaction whose every call is a turn."""

    @wraps(method)
    async def call(self: Taking, /, *args: Given.args, **kwargs: Given.kwargs) -> Answer:
        with self.turns.turn():
            return await method(self, *args, **kwargs)

    return call
