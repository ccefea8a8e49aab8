"""The gate itself: k, l, the lineage of releases, the detector, and pages that the receiver looks at anew."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domicile.cells.border import declared, pages
from domicile.cells.border.anonymity import Kept, Policy, Row, anonymise, label
from domicile.cells.border.gate import Examination, Passed, Treating, check_shape, passed
from domicile.cells.border.inspection import Inspector
from domicile.cells.border.plan import Plan, plan
from domicile.cells.border.wire import ReleasedColumn, ReleaseManifest, whole
from domicile.model import Forbidden, InvalidInput
from domicile.model.sealed import Sealed, frame
from domicile.sdk.store import RecordedColumn


def rows(*values: tuple[int, Any]) -> list[Row]:
    """(person, class) each."""
    return [Row((of,), (b"%d" % person,)) for person, of in values]


def policy(k: int = 3, *, suppressed: float = 0.9, **more: Any) -> Policy:
    return Policy(quasi=(0,), k=k, max_suppressed=suppressed, **more)


def classes(kept: Kept) -> dict[bytes, bytes]:
    return {person: json.dumps(sorted(map(str, of))).encode() for person, of in kept.signatures.items()}


def test_k_counts_people_and_not_rows() -> None:
    alone = rows(*((1, "a") for _ in range(50)), *((n, "b") for n in range(2, 6)))
    kept = anonymise(alone, policy(suppressed=0.95))
    assert {row.values for row in kept.rows} == {("b",)}
    assert (kept.k, kept.suppressed) == (4, 50)


def test_all_rows_of_a_person_leave_or_none() -> None:
    """Who is in a class with too few others is missing from the class with enough of them, too."""
    found = rows(*((n, "a") for n in range(6)), (0, "rare"))
    kept = anonymise(found, policy())
    assert {person for row in kept.rows for person in row.people} == {b"%d" % n for n in range(1, 6)}


def test_suppression_is_bounded() -> None:
    found = rows(*((n, "a") for n in range(18)), (98, "b"), (99, "b"))
    assert anonymise(found, policy(suppressed=0.1)).suppressed == 2
    with pytest.raises(Forbidden, match="more than 1 of 20 rows"):
        anonymise(found, policy(suppressed=0.05))


def test_nothing_is_no_release() -> None:
    with pytest.raises(Forbidden, match="no row"):
        anonymise([], policy())


def test_l_diversity_holds_back_a_class_that_agrees() -> None:
    found = [
        Row((of, sick), (b"%d" % n,))
        for n, (of, sick) in enumerate([("a", "flu")] * 4 + [("b", "flu"), ("b", "gout")] * 2)
    ]
    kept = anonymise(found, policy(sensitive=1, l=2))
    assert {row.values[0] for row in kept.rows} == {"b"}
    assert kept.l == 2


def test_aggregates_are_left_out_whole() -> None:
    groups = [Row(("a", 9), tuple(b"%d" % n for n in range(9))), Row(("b", 2), (b"x", b"y"))]
    kept = anonymise(groups, policy(grouped=True))
    assert [row.values for row in kept.rows] == [("a", 9)]
    assert kept.k == 9


def test_an_aggregate_is_of_k_people_however_coarse_its_class_is() -> None:
    """Grouped by the day and released by the decade: a group of one is one person's own row."""
    groups = [Row(("1970s", 1), (b"%d" % n,)) for n in range(20)]
    groups.append(Row(("1970s", 7), tuple(b"many %d" % n for n in range(7))))
    kept = anonymise(groups, policy(suppressed=0.99, grouped=True))
    assert [row.values for row in kept.rows] == [("1970s", 7)]
    with pytest.raises(Forbidden, match="more than 0 of 21 rows"):
        anonymise(groups, policy(suppressed=0, grouped=True))


def test_a_pseudonym_that_several_share_is_held_to_k_like_a_quasi_identifier() -> None:
    """Of a town instead of a person: who is with few in it is left out, whoever has one of his own stays."""
    towns = ["ulm"] * 5 + ["hall"] * 2 + [None] * 2 + [f"own {n}" for n in range(4)]
    found = [Row(("a", town), (b"%d" % n,)) for n, town in enumerate(towns)]
    kept = anonymise(found, policy(pseudonyms=(1,)))
    assert Counter(row.values[1] for row in kept.rows) == Counter(["ulm"] * 5 + [f"own {n}" for n in range(4)])
    assert len(anonymise(found, policy()).rows) == len(towns)


def test_types_tell_classes_apart() -> None:
    assert len({label((value,), (0,)) for value in (1, "1", True, 1.0, None)}) == 5


def test_a_newcomer_cannot_be_found_by_difference() -> None:
    """Ten in a class, then eleven: what is new is one person."""
    first = anonymise(rows(*((n, "a") for n in range(10))), policy())
    second = anonymise(rows(*((n, "a") for n in range(11))), policy(), [classes(first)])
    assert b"10" not in second.signatures
    third = anonymise(rows(*((n, "a") for n in range(13))), policy(), [classes(first), classes(second)])
    assert len(third.signatures) == 13, "three at a time are enough"


def test_who_has_gone_cannot_be_found_by_difference() -> None:
    first = anonymise(rows(*((n, "a") for n in range(12))), policy())
    second = rows(*((n, "a") for n in range(5)), *((n, "b") for n in range(5, 11)))
    kept = anonymise(second, policy(), [classes(first)])
    gone = {b"%d" % n for n in range(12)} - kept.signatures.keys()
    assert len(gone) >= 3


def test_an_intersection_that_singles_out_is_refused() -> None:
    """By age, then by city: each is 4-anonymous, and both together name everybody."""
    ages = anonymise(rows(*((n, n // 4) for n in range(16))), policy(4))
    with pytest.raises(Forbidden, match="earlier releases of the lineage"):
        anonymise(rows(*((n, n % 4) for n in range(16))), policy(4, suppressed=0.5), [classes(ages)])


def test_a_lower_k_does_not_undo_what_an_earlier_release_promised() -> None:
    """The first was of ten at a time; a second declaration of the lineage says two, and would split it into twos."""
    first = anonymise(rows(*((n, "a") for n in range(20))), policy(10))
    finer = rows(*((n, n // 2) for n in range(20)))
    assert len(anonymise(finer, policy(2), [classes(first)]).rows) == 20, "what k alone would let through"
    with pytest.raises(Forbidden, match="earlier releases of the lineage"):
        anonymise(finer, policy(2, together=10), [classes(first)])


def test_the_same_again_loses_nobody() -> None:
    found = rows(*((n, n % 3) for n in range(30)))
    first = anonymise(found, policy())
    assert anonymise(found, policy(suppressed=0), [classes(first)]).rows == first.rows


PEOPLE = st.lists(st.tuples(st.integers(0, 25), st.integers(0, 3)), min_size=1, max_size=60)


@given(st.lists(PEOPLE, min_size=1, max_size=4), st.integers(2, 5))
@settings(max_examples=150, deadline=None)
def test_whatever_is_joined_hides_k(data: list[list[tuple[int, int]]], k: int) -> None:
    """The invariant itself, over every release of a lineage: counted here, by all that an attacker has."""
    made: list[dict[bytes, bytes]] = []
    for values in data:
        try:
            kept = anonymise(rows(*values), policy(k, suppressed=0.99), made)
        except Forbidden:
            continue
        inside: dict[Any, set[bytes]] = defaultdict(set)
        for row in kept.rows:
            inside[row.values].update(row.people)
        assert min(len(people) for people in inside.values()) >= k == min(k, kept.k)
        made.append(classes(kept))
        everybody = set().union(*made)
        together = Counter(tuple(release.get(person) for release in made) for person in everybody)
        assert all(count >= k for count in together.values())


@given(PEOPLE)
@settings(max_examples=100, deadline=None)
def test_what_is_kept_is_whole(values: list[tuple[int, int]]) -> None:
    given_rows = rows(*values)
    try:
        kept = anonymise(given_rows, policy(2, suppressed=0.99))
    except Forbidden:
        return
    inside = {person for row in kept.rows for person in row.people}
    assert Counter(kept.rows) == Counter(row for row in given_rows if row.people[0] in inside)
    assert len(kept.rows) + kept.suppressed == len(given_rows)


# -- the whole gate ------------------------------------------------------------------------------------------------

CLASSES = {
    "visits": (
        RecordedColumn("age", "personal", "user", False, None, True, "int", None),
        RecordedColumn("email", "personal", "user", True, None, True, "str", None),
        RecordedColumn("remark", "shareable", "user", False, None, True, "str", None),
    )
}


def visits(**more: Any) -> Plan:
    said = {
        "name": "visits",
        "to": {"jurisdiction": "us", "cell": "us-1"},
        "purpose": "analytics:visits",
        "source": {"records": "visits"},
        "columns": {
            "age": {"treatment": "generalise", "bins": [30, 60]},
            "email": {"treatment": "pseudonym"},
            "remark": {"treatment": "shareable"},
        },
        "quasi_identifiers": ["age"],
        "not_identifiers": ["remark"],
        "k": 3,
        **more,
    }
    return plan(declared(said), CLASSES, "eu")


def through(values: list[tuple[int, str, str]], made: Plan | None = None) -> Passed:
    made = made or visits()
    treating = Treating(made, b"the cell's secret")
    found = [treating.row(row, [b"person %d" % n]) for n, row in enumerate(values)]
    return passed(made, found, [], ["DE"])


def manifest(made: Plan, out: Passed, **more: Any) -> ReleaseManifest:
    digests = [pages.digest(page) for page in out.pages]
    said: dict[str, Any] = {
        "deployment": "acme", "source": "eu", "cell": "eu-1", "destination": "us", "to_cell": "us-1",
        "name": "visits", "lineage": "visits", "revision": 1, "declaration": made.declaration.digest,
        "purpose": "analytics:visits", "columns": list(made.columns), "quasi": ["age"], "grouped": False, "least": 3,
        "k": out.kept.k, "l_declared": 0, "l": 0, "rows": len(out.kept.rows), "suppressed": out.kept.suppressed,
        "pages": digests, "digest": whole(digests), "made_at": 0,
    }  # fmt: skip
    return ReleaseManifest.model_validate(said | more)


GOOD = [(20 + n % 5, f"user{n}@example.eu", "fine") for n in range(40)]


def test_what_passes_holds_nothing_personal() -> None:
    out = through(GOOD)
    text = "\n".join(out.pages)
    assert "@" not in text
    assert "person" not in text
    assert out.kept.k == 40
    assert len(out.members) == 40
    assert all(len(person) == len(of) == 16 for person, of in out.members.items())


STRAY = {
    "email": "write to hans.mueller@example.de please",
    "phone": "call +49 30 901820",
    "iban": "DE89 3704 0044 0532 0130 00",
    "card": "4111 1111 1111 1111",
    "national-identifier": "steuer id 65929970489",
    "ip-address": "from 203.0.113.77",
    "token": "c2VjcmV0LXRva2Vu9fA3kLq8ZxPw72mN",
    "sealed-value": frame(Sealed("eu", bytes(12), bytes(range(60)))).hex(),
}


@pytest.mark.parametrize("rule", STRAY)
def test_a_personal_value_in_a_shareable_text_stops_the_release(rule: str) -> None:
    with pytest.raises(Forbidden) as caught:
        through([*GOOD, (21, "late@example.eu", STRAY[rule])])
    assert caught.value.where == "remark"
    assert f"({rule})" in str(caught.value)
    assert not any(word in str(caught.value) for word in STRAY[rule].split() if len(word) > 5)


def test_numbers_are_looked_at_as_well() -> None:
    with pytest.raises(Forbidden, match=r"card"):
        Inspector(["account"], [], []).look([4111111111111111])


def test_a_pseudonym_that_is_none_is_refused() -> None:
    with pytest.raises(Forbidden, match="no pseudonym"):
        Inspector(["who"], ["who"], []).look(["alice"])


def test_hostile_text_costs_linear_time() -> None:
    """Ten times the text, not a hundred times the time; measured loosely, since machines differ."""

    def seconds(length: int) -> float:
        texts = ["1-" * length, "@" * length, "a." * length, "+49 " * length, "eyJ" * length]
        begun = time.process_time()
        for text in texts:
            with suppress(Forbidden):
                Inspector(["remark"], [], ["DE", "FR"]).look([text])
        return time.process_time() - begun

    seconds(100)
    assert seconds(20_000) < 40 * max(seconds(2_000), 0.005)


def test_order_and_pages_tell_nothing() -> None:
    one, other = through(GOOD), through(GOOD[::-1])
    assert one.pages == other.pages
    big: list[list[str | int]] = [["x" * 1000, n] for n in range(2_500)]
    made = pages.paged(big)
    assert len(made) > 3
    assert all(len(page) <= pages.PAGE_BYTES + pages.MAX_ROW_BYTES for page in made)
    assert sum(page.count("\n") + 1 for page in made) == 2_500


def test_the_receiver_finds_it_as_it_was_signed() -> None:
    made, out = visits(), through(GOOD)
    said = manifest(made, out)
    check_shape(said)
    looked = Examination(said, ["DE"])
    looked.finish([row for number, body in enumerate(out.pages) for row in looked.page(number, body)])


def test_a_page_that_was_changed_is_refused() -> None:
    out = through(GOOD)
    looked = Examination(manifest(visits(), out), ["DE"])
    for number, body in ((0, out.pages[0].replace("fine", "fin3", 1)), (1, out.pages[0]), (-1, out.pages[0])):
        with pytest.raises(Forbidden, match="not signed"):
            looked.page(number, body)


def signed_page(body: str, **more: Any) -> tuple[ReleaseManifest, str]:
    """What a sender whose gate is broken would sign."""
    digests = [pages.digest(body)]
    out = through(GOOD)
    return manifest(visits(), out, pages=digests, digest=whole(digests), **more), body


def line(*values: Any) -> str:
    return json.dumps(list(values))


LETTERS = "abcdefghijklmnop" * 2
PSEUDONYM = LETTERS[:26]


@pytest.mark.parametrize(
    "body",
    [
        line("<30", PSEUDONYM, "hans@example.de"),
        line("<30", "hans", "fine"),
        line("<30", PSEUDONYM, 7),
        line("<30", PSEUDONYM),
        line("<30", PSEUDONYM, "fine", "more"),
        line("<30", PSEUDONYM, ["fine"]),
        line("<30", PSEUDONYM, True),
        '{"age": "<30"}',
        "[",
        "[" * 100_000,
        "",
    ],
    ids=range(11),
)
def test_the_receiver_believes_no_sender(body: str) -> None:
    said, page = signed_page(body)
    with pytest.raises((Forbidden, InvalidInput)) as caught:
        Examination(said, ["DE"]).page(0, page)
    assert "hans" not in str(caught.value)


def test_the_receiver_counts_for_itself() -> None:
    body = "\n".join([line("<30", PSEUDONYM, "fine"), *[line("30-60", PSEUDONYM, "fine")] * 3])
    said, page = signed_page(body, rows=4)
    looked = Examination(said, [])
    with pytest.raises(Forbidden, match="fewer than k"):
        looked.finish(looked.page(0, page))
    said, page = signed_page(body, rows=5)
    with pytest.raises(Forbidden, match="number of rows"):
        Examination(said, []).finish(Examination(said, []).page(0, page))
    uniform = "\n".join([line("<30", PSEUDONYM, "fine")] * 4)
    said, page = signed_page(uniform, rows=4, sensitive="remark", l_declared=2, l=2)
    with pytest.raises(Forbidden, match="fewer than l"):
        Examination(said, []).finish(Examination(said, []).page(0, page))


@pytest.mark.parametrize(
    "more",
    [
        {"k": 2},
        {"l_declared": 3, "l": 2},
        {"digest": "0" * 64},
        {"quasi": ["age", "nothing"]},
        {"sensitive": "nothing"},
        {"columns": [ReleasedColumn(name="age", type="text"), ReleasedColumn(name="age", type="text")]},
    ],
    ids=range(6),
)
def test_a_manifest_that_does_not_hold_together_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(Forbidden):
        check_shape(manifest(visits(), through(GOOD), **more))
