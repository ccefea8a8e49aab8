"""What is acknowledged is in a second zone too, where one is required. Pure: the storage reads, this decides.

PostgreSQL makes a COMMIT wait for a standby where three things hold at once: the transaction's own
synchronous_commit, a name in synchronous_standby_names, and a standby that streams. Each can be changed behind a
directory's back, and where one is missing COMMIT answers at once, or never.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from domicile.model import Unavailable

ENOUGH: Final = frozenset({"on", "remote_apply"})
"""Levels of synchronous_commit at which a standby has flushed what is acknowledged."""


class SecondZone(StrEnum):
    """Whether a second zone is there, and then whether nothing may be acknowledged without it."""

    REQUIRED = "required"
    ABSENT = "absent"


class Replication(NamedTuple):
    """What a database says of its synchronous standbys.

    ``needed`` of them must confirm a COMMIT; ``streaming`` do stream; ``confirmed`` have what was asked for.
    ``written``: the position that this server has written its log to. ``visible``: whether the role may see them.
    """

    level: str
    names: str
    needed: int
    streaming: int
    confirmed: int
    written: str | None
    visible: bool


def missing(found: Replication) -> Unavailable | None:
    """Why a COMMIT would not be in a second zone when it is answered, or would not be answered. Pure."""
    if found.level not in ENOUGH:
        what = f"synchronous_commit is {found.level}: commits wait for no standby"
        return _refusal(what, "leave it at on for the database and for the directory's role")
    if not found.names.strip():
        return _refusal(
            "the database has no synchronous standby", "name the standbys of another zone in synchronous_standby_names"
        )
    if not found.visible:
        what = "the directory's role may not see the database's standbys"
        return _refusal(what, "GRANT pg_read_all_stats TO domicile_directory")
    if found.streaming < found.needed:
        what = f"{found.streaming} of {found.needed} synchronous standbys stream"
        return _refusal(what, "start the standby in the second zone, and see that it connects")
    if found.confirmed < found.needed:
        return _refusal("a commit was not confirmed by the second zone in time", "see why the standby does not keep up")
    return None


def _refusal(what: str, remedy: str) -> Unavailable:
    return Unavailable(what, remedy=remedy)


class SecondZoneCheck:
    """Whether something may be acknowledged now. After an unanswered COMMIT, not before the standbys have it.

    Otherwise each further COMMIT would hold one more of the server's connections, until nobody can read either.
    """

    def __init__(self, wanted: SecondZone) -> None:
        self.required = wanted is SecondZone.REQUIRED
        self._asked: str | None = "0/0"

    @property
    def asked(self) -> str | None:
        """The position of the log that standbys must have confirmed; none for where it stands now."""
        return self._asked

    def doubt(self) -> None:
        """A COMMIT was not answered."""
        self._asked = None

    def take(self, found: Replication) -> None:
        """Raises Unavailable, with its remedy. ``found``: as asked for with ``asked``."""
        refused = missing(found)
        if refused is None:
            self._asked = "0/0"
            return
        if self._asked is None:
            self._asked = found.written
        raise refused

    def take_after(self, found: Replication) -> None:
        """Raises Unavailable where COMMITs were let go without a standby meanwhile: ours may be one of them."""
        if not found.names.strip():
            raise _refusal("the database stopped waiting for a standby", "name one again in synchronous_standby_names")
