"""Values that look personal are found, values that point to nobody are not, and no text takes long to read."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from domicile_testing.labelled import COUNTRIES, Labelled, in_prose, negatives, positives, prose

from domicile.detect import MAX_TEXT, Detector, Finding, Rule
from domicile.model import InvalidInput
from domicile.model.sealed import Sealed, frame

DETECTOR = Detector(COUNTRIES)


def rules(text: str | bytes, topic: str = "", detector: Detector = DETECTOR) -> set[Rule]:
    return {finding.rule for finding in detector.findings(text, topic)}


def missed(labelled: list[Labelled]) -> Counter[Rule | None]:
    return Counter(each.rule for each in labelled if each.rule not in rules(each.text, each.topic))


def test_it_finds_what_looks_personal_alone_and_in_prose() -> None:
    alone, within = list(positives(1, 100)), list(in_prose(2, 100))
    assert {rule for rule, count in missed(alone).items() if count > 2} == set()
    assert {rule for rule, count in missed(within).items() if count > 3} == set()


@pytest.mark.full
def test_the_figures_of_the_page_are_measured_again() -> None:
    """docs/telemetry.md: recall by rule, alone and in prose, and false findings among what points to nobody."""
    page = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text()
    sizes = r"\((\d+) values of each rule; ([\d,]+) values of 20 kinds that point to nobody; ([\d,]+) paragraphs"
    said = re.search(sizes, page)
    recall = re.search(r"recall ([\d.]+) to ([\d.]+) by rule", page)
    assert said
    assert recall
    each = int(said[1])
    lost = [count for found in (positives(1, each), in_prose(2, each)) for count in missed(list(found)).values()]
    assert 1 - max(lost, default=0) / each >= float(recall[1])
    innocent = list(negatives(3, each))
    assert len(innocent) == int(said[2].replace(",", ""))
    assert [one.text for one in innocent if rules(one.text)] == []
    assert len(prose()) > 0.9 * int(said[3].replace(",", "")), "each version of Python has some more, or fewer"
    assert [text for text in prose() if rules(text)] == []


def test_it_lets_pass_what_points_to_nobody() -> None:
    found = [each.text for each in negatives(3, 100) if rules(each.text)]
    assert len(found) <= 10, found[:20]
    found = [each for each in prose() if rules(each)]
    assert len(found) <= 5, found


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("anna\uff20example.org", Rule.EMAIL),
        ("an\u200bna@exam\u00adple.org", Rule.EMAIL),
        ("q=anna%40example.org", Rule.EMAIL),
        ("josé.ñandú@bücher.example", Rule.EMAIL),
        ("\uff14\uff11\uff11\uff11 1111 1111 1111", Rule.CARD),
        ("٤١١١١١١١١١١١١١١١", Rule.CARD),
        ("4111\u20111111\u20111111\u20111111", Rule.CARD),
        ("+49 151 23456789", Rule.PHONE),
        ("(415) 555-2671", Rule.PHONE),
        ("DE89 3704 0044 0532 0130 00 is hers", Rule.IBAN),
        ("fe80::1ff:fe23:4567:890a", Rule.ADDRESS),
        ("from 203.0.113.9.", Rule.ADDRESS),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", Rule.TOKEN),
        ("RSSMRA85T10A562S", Rule.IDENTIFIER),
        ("000-12-3456", None),
        ("127.0.0.1", None),
        ("4111 1111 1111 1112", None),
        ("icon@2x.png", None),
        ("12:30:45", None),
        ("std::vector", None),
        ("the Donaudampfschifffahrtsgesellschaft of 1829", None),
        ("", None),
    ],
)
def test_spellings(text: str, rule: Rule | None) -> None:
    assert rules(text) == ({rule} if rule else set())


def test_a_bare_number_counts_beside_its_name_only() -> None:
    assert rules("86095742719") == set()
    assert rules("86095742719", topic="steuer_id") == {Rule.IDENTIFIER}
    assert rules("meine Steuer-ID: 86095742719") == {Rule.IDENTIFIER}
    assert rules("86095742718", topic="steuer_id") == set(), "its check digit is wrong"


def test_national_telephone_numbers_are_those_of_the_countries_given() -> None:
    assert Rule.PHONE in rules("11 91234-5678", "phone", Detector(["BR"]))
    assert rules("11 91234-5678", "phone", Detector(["DE"])) == set()
    with pytest.raises(InvalidInput, match="XX"):
        Detector(["DE", "XX"])


def test_sealed_values_are_found_as_bytes_and_in_text() -> None:
    raw = frame(Sealed("eu", bytes(12), bytes(range(40))))
    assert rules(b"row:" + raw) == {Rule.SEALED}
    assert Rule.SEALED in rules(raw.hex())
    assert rules(raw[:12].hex() + "zz") == set()


def test_a_rule_that_does_not_apply_is_left_out() -> None:
    pseudonym = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    assert rules(pseudonym) == {Rule.TOKEN}
    assert rules(pseudonym, detector=Detector(without=frozenset({Rule.TOKEN}))) == set()


def test_a_token_behind_a_long_path_is_found() -> None:
    assert [each.rule for each in Detector().findings("word/" * 3000 + "9fK2mQ7xLr4TzW8bNd3vYh6P")] == [Rule.TOKEN]


def test_what_is_too_long_to_be_read_whole_is_a_finding() -> None:
    text = "." * MAX_TEXT + "anna@example.org"
    assert DETECTOR.findings(text) == [Finding(Rule.TOO_LONG, MAX_TEXT, len(text))]


HOSTILE = (
    "a", "@", "a@", "1", "1 ", "1-", ".", "a.", "@a.", "DE12 ", "AB12", ":", "1:", "ab:", "1.1.", "+1(1)", "Aa1",
    "123456789 ", "12345678901 ", "eyJ", "eyJaaaaaaaa.", "0E1TA", "d04d5301", "%41", "%", "\uff11", "(1", "-",
    "0123 456789 ", "1/1", "a-", "\u0661\u200b", "ssn 1", "[::", "mailto:a@[", "2026-11-25", "12.12.2012 ",
)  # fmt: skip


@pytest.mark.timeout(120)
@pytest.mark.parametrize("repeated", HOSTILE)
def test_hostile_text_is_read_in_linear_time(repeated: str) -> None:
    """A rule that goes back over what it has read would need hours for 50,000 characters."""
    DETECTOR.findings(repeated * (50_000 // len(repeated)), "phone ssn")
