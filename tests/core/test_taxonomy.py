"""Categories are those of fideslang, what lies below them, and what an application says that it means."""

from __future__ import annotations

import pytest

from domicile.model import ModelError, extend_taxonomy
from domicile.model.taxonomy import FIDESLANG, check_category


def test_every_name_has_its_parent() -> None:
    assert len(FIDESLANG) == 85
    assert {name.rpartition(".")[0] for name in FIDESLANG} - {""} <= FIDESLANG


@pytest.mark.parametrize(
    "category", [*sorted(FIDESLANG), "user.content.topic", "user.account.plan", "user.name.first.maiden"]
)
def test_what_is_on_the_list_or_below_it_is_known(category: str) -> None:
    check_category(category, "Profile.field")


@pytest.mark.parametrize(
    ("category", "nearest"),
    [
        ("user.contact.emial", "user.contact.email"),
        ("user.contct.email", "user.contact.email"),
        ("user.content.privat", "user.content.private"),
        ("user.nmae", "user.name"),
        ("user.demographic.date_of_brith", "user.demographic.date_of_birth"),
        ("system.operation", "system.operations"),
        ("user.thing.size", "user."),
    ],
)
def test_what_nobody_knows_is_an_error_with_the_nearest(category: str, nearest: str) -> None:
    with pytest.raises(ModelError, match="nearest") as refusal:
        check_category(category, "Profile.field")
    assert (refusal.value.where, nearest in str(refusal.value)) == ("Profile.field", True)


def test_an_application_says_what_it_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("domicile.model.taxonomy._added", set())
    extend_taxonomy("user.horoscope", "user.contact.emial")
    check_category("user.horoscope.ascendant", "Profile.field")
    check_category("user.contact.emial", "Profile.field")
    for name in ("pet.name", "User", "user..x", ""):
        with pytest.raises(ModelError):
            extend_taxonomy(name)
