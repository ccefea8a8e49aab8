"""What the sample application stores of its users."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Final
from uuid import UUID

from domicile.sdk import Personal, Record, Shareable

PROFILE: Final = UUID("b4e3b0d2-6a55-4d8e-9d5b-0f3f2f1c7a10")
"""The key of every profile: a subject has one, and rows of two subjects never share a key space."""


class Profile(Record, table="profiles"):
    """A user's account. ``password`` is a salted scrypt hash, and sealed all the same."""

    user: Annotated[str, Personal("user.unique_id")]
    email: Annotated[str, Personal("user.contact.email", find=True)]
    password: Annotated[str, Personal("user.authorization.password")]
    born: Annotated[date | None, Personal("user.demographic.date_of_birth", sealed=False)] = None
    plan: Annotated[str, Shareable("user.account.plan")]


class Note(Record, table="notes"):
    """Something that a user wrote; its topic is metadata that the application may share."""

    text: Annotated[str, Personal("user.content.private")]
    topic: Annotated[str, Shareable("user.content.topic")]
