"""What may be declared: every part of a declaration, and each way to slip a personal column past it."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domicile.cells.border import declared, parse_declaration
from domicile.cells.border.lineage import analyse
from domicile.cells.border.plan import plan
from domicile.cells.border.treatments import coarsen, is_pseudonym, pseudonym, secret_of, treat
from domicile.model import Forbidden, InvalidInput
from domicile.sdk.store import RecordedColumn


def column(name: str, kind: str = "str", field_class: str = "personal", *, sealed: bool = False) -> RecordedColumn:
    return RecordedColumn(name, field_class, "user.contact", sealed, None, True, kind, None)


CLASSES = {
    "profiles": (
        column("born", "date"),
        column("city"),
        column("email", sealed=True),
        column("plan", field_class="shareable"),
        column("score", "int", "shareable"),
        column("weight", "int"),
    ),
    "notes": (
        column("text", sealed=True),
        column("topic", field_class="shareable"),
        column("who", "UUID", "principal"),
    ),
}
GOOD: dict[str, Any] = {
    "name": "plans",
    "to": {"jurisdiction": "us", "cell": "us-1"},
    "purpose": "analytics:plans",
    "source": {"records": "profiles"},
    "columns": {"plan": {"treatment": "shareable"}, "born": {"treatment": "date", "to": "decade"}},
    "quasi_identifiers": ["plan", "born"],
    "k": 5,
}


def changed(**more: Any) -> dict[str, Any]:
    return {**GOOD, **more}


def test_a_declaration_is_planned() -> None:
    made = plan(declared(GOOD), CLASSES, "eu")
    assert [(each.name, each.type) for each in made.columns] == [("plan", "text"), ("born", "text")]
    assert [each.name for each in made.fields] == ["plan", "born"]
    assert not made.grouped


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a personal column as shareable": (
        {"columns": {"city": {"treatment": "shareable"}}, "quasi_identifiers": ["city"]},
        "columns.city: a personal column without a treatment",
    ),
    "no treatment": ({"columns": {"plan": {}}, "quasi_identifiers": ["plan"]}, "without a known treatment"),
    "an unknown one": (
        {"columns": {"plan": {"treatment": "hash"}}, "quasi_identifiers": ["plan"]},
        "without a known treatment",
    ),
    "a column of no part": ({"quasi_identifiers": ["plan"]}, "born has no part"),
    "a column with two parts": ({"not_identifiers": ["born"]}, "one part"),
    "nothing leaves": (
        {"columns": {"city": {"treatment": "drop"}}, "quasi_identifiers": []},
        "every column is dropped",
    ),
    "a part for what is dropped": (
        {"columns": {"plan": {"treatment": "shareable"}, "born": {"treatment": "drop"}}},
        "no column that leaves",
    ),
    "a pseudonym as a quasi-identifier": (
        {"columns": {"city": {"treatment": "pseudonym"}}, "quasi_identifiers": ["city"]},
        "pseudonym",
    ),
    "k of one": ({"k": 1}, "k: "),
    "no k": ({"k": None}, "k: "),
    "all suppressed": ({"max_suppressed": 1}, "max_suppressed: "),
    "an unknown key": ({"anonymous": True}, "anonymous: "),
    "two sources": ({"source": {"records": "profiles", "sql": "SELECT 1"}}, "one of the two"),
    "its own jurisdiction": ({"to": {"jurisdiction": "eu", "cell": "eu-2"}}, "nothing crosses there"),
    "an unknown table": ({"source": {"records": "people"}}, "no such table"),
    "an unknown column": (
        {"columns": {"harmless": {"treatment": "shareable"}}, "quasi_identifiers": ["harmless"]},
        "no column harmless",
    ),
    "who a row is about": (
        {"source": {"records": "notes"}, "columns": {"who": {"treatment": "pseudonym"}}, "quasi_identifiers": []},
        "whom a row is about",
    ),
    "a date treatment of a text": (
        {"columns": {"city": {"treatment": "date", "to": "year"}}, "quasi_identifiers": ["city"]},
        "date takes no str",
    ),
    "bins of a text": (
        {"columns": {"city": {"treatment": "generalise", "bins": [1]}}, "quasi_identifiers": ["city"]},
        "generalise takes no str",
    ),
    "bins that do not grow": (
        {"columns": {"weight": {"treatment": "generalise", "bins": [9, 3]}}, "quasi_identifiers": ["weight"]},
        "bins grow",
    ),
    "hierarchy and bins": (
        {
            "columns": {"weight": {"treatment": "generalise", "bins": [9], "hierarchy": {"1": "a"}}},
            "quasi_identifiers": ["weight"],
        },
        "one of the two",
    ),
    "a bound over the other": (
        {"columns": {"weight": {"treatment": "topcode", "above": 1, "below": 2}}, "quasi_identifiers": ["weight"]},
        "bound",
    ),
    "a purpose with a blank": ({"purpose": "because of alice"}, "purpose: "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_when_declared(name: str) -> None:
    change, said = REFUSED[name]
    with pytest.raises(InvalidInput) as caught:
        plan(declared(changed(**change)), CLASSES, "eu")
    assert said in str(caught.value)
    assert "alice" not in str(caught.value)


def test_yaml_is_read_and_its_problems_told_by_place() -> None:
    text = "name: plans\nto: {jurisdiction: us, cell: us-1}\n"
    with pytest.raises(InvalidInput, match="purpose: "):
        parse_declaration(text)
    with pytest.raises(InvalidInput, match="line 1"):
        parse_declaration("a: [")
    with pytest.raises(InvalidInput, match="declaration"):
        parse_declaration("- 1")


@pytest.mark.parametrize("missing", ["name", "to", "purpose", "source", "columns", "quasi_identifiers", "k"])
def test_nothing_is_left_to_a_default_that_matters(missing: str) -> None:
    with pytest.raises(InvalidInput, match=missing):
        declared({key: value for key, value in GOOD.items() if key != missing})


# -- lineage of SQL ------------------------------------------------------------------------------------------------


FOLLOWED: dict[str, dict[str, tuple[bool, str]]] = {
    "SELECT plan FROM profiles": {"plan": (False, "str")},
    "SELECT city AS plan_code FROM profiles": {"plan_code": (True, "str")},
    "WITH t AS (SELECT city AS x, plan FROM profiles) SELECT x AS harmless, plan FROM t": {
        "harmless": (True, "str"),
        "plan": (False, "str"),
    },
    "SELECT y.a AS b FROM (SELECT born AS a FROM profiles) AS y": {"b": (True, "date")},
    "SELECT upper(plan) || '-' || lower(city) AS both FROM profiles": {"both": (True, "str")},
    "SELECT CASE WHEN city = 'x' THEN 1 ELSE 2 END AS c FROM profiles": {"c": (True, "int")},
    "SELECT coalesce(plan, city) AS c FROM profiles": {"c": (True, "str")},
    "SELECT cast(born AS text) AS c FROM profiles": {"c": (True, "str")},
    "SELECT date_trunc('year', born) AS y, count(*) AS n FROM profiles GROUP BY 1": {
        "y": (True, "datetime"),
        "n": (False, "int"),
    },
    "SELECT plan, count(*) AS n, avg(score) AS a FROM profiles GROUP BY plan": {
        "plan": (False, "str"),
        "n": (False, "int"),
        "a": (False, "float"),
    },
    "SELECT plan, max(weight) AS m, sum(weight) AS s, count(weight) AS c FROM profiles GROUP BY plan": {
        "plan": (False, "str"),
        "m": (True, "int"),
        "s": (True, "int"),
        "c": (True, "int"),
    },
    "SELECT count(CASE WHEN city = 'x' THEN 1 END) AS c, plan FROM profiles GROUP BY plan": {
        "c": (True, "int"),
        "plan": (False, "str"),
    },
    "SELECT p.plan, n.topic FROM profiles p JOIN notes n USING (subject_key)": {
        "plan": (False, "str"),
        "topic": (False, "str"),
    },
    "SELECT extract(year FROM created_at) AS y FROM profiles": {"y": (True, "int")},
    "SELECT x.plan FROM (SELECT born, plan FROM profiles) AS x(plan, born)": {"plan": (True, "date")},
    "WITH profiles AS (SELECT city AS plan FROM profiles) SELECT plan FROM profiles": {"plan": (True, "str")},
    "WITH notes(topic) AS (SELECT city FROM profiles) SELECT topic FROM notes": {"topic": (True, "str")},
    "SELECT plan LIKE city AS c, plan IN (city) AS d, plan BETWEEN city AND 'z' AS e FROM profiles": {
        "c": (True, "bool"),
        "d": (True, "bool"),
        "e": (True, "bool"),
    },
    "SELECT coalesce(nullif(plan, city), 'same') AS c FROM profiles": {"c": (True, "str")},
    "SELECT substring(plan FROM city) AS c, trim(city FROM plan) AS d FROM profiles": {
        "c": (True, "str"),
        "d": (True, "str"),
    },
    "SELECT plan, count(DISTINCT city) AS c, sum(score) + max(weight) AS s FROM profiles GROUP BY plan": {
        "plan": (False, "str"),
        "c": (True, "int"),
        "s": (True, "int"),
    },
}


@pytest.mark.parametrize("sql", FOLLOWED)
def test_columns_inherit_the_strictest_class(sql: str) -> None:
    found = analyse(sql, CLASSES)
    assert {each.name: (each.personal, each.kind) for each in found.outputs} == FOLLOWED[sql]
    assert found.grouped is ("group by" in sql.lower())
    assert "domicile.read_fence" in found.sql
    assert found.sql.count('"domicile_people"') == 1


UNFOLLOWED = [
    "SELECT * FROM people",
    "SELECT x.* FROM profiles",
    "SELECT nothing FROM profiles",
    "SELECT email AS harmless FROM profiles",
    "SELECT count(email) AS n FROM profiles",
    "SELECT frob(plan) AS x FROM profiles",
    "SELECT pg_read_file('/etc/passwd') AS x FROM profiles",
    "SELECT pg_sleep(100) AS x, plan FROM profiles",
    "SELECT current_user AS u, plan FROM profiles",
    "SELECT subject_key FROM profiles",
    "SELECT principal_key FROM profiles",
    "SELECT plan FROM profiles WHERE city = 'Ulm'",
    "SELECT plan FROM profiles WHERE born < '1950-01-01'",
    "SELECT plan FROM profiles WHERE created_at < '2020-01-01'",
    "SELECT plan, count(*) AS n FROM profiles GROUP BY plan HAVING max(weight) > 100",
    "SELECT plan FROM profiles LIMIT 10",
    "SELECT plan FROM profiles ORDER BY born",
    "SELECT plan FROM profiles OFFSET 10",
    "SELECT DISTINCT plan FROM profiles",
    "SELECT plan FROM profiles FOR UPDATE",
    "SELECT plan FROM profiles TABLESAMPLE SYSTEM (10)",
    "SELECT plan FROM profiles UNION SELECT topic FROM notes",
    "SELECT (SELECT max(topic) FROM notes) AS m, plan FROM profiles",
    "SELECT plan FROM profiles WHERE EXISTS (SELECT 1 FROM notes)",
    "SELECT plan, row_number() OVER () AS r FROM profiles",
    "SELECT plan, max(score) OVER (PARTITION BY city) AS r FROM profiles",
    "SELECT p.plan FROM profiles p, notes n",
    "SELECT p.plan FROM profiles p LEFT JOIN notes n USING (subject_key)",
    "SELECT p.plan FROM profiles p JOIN notes n ON p.plan = n.topic",
    "SELECT p.plan FROM profiles p JOIN notes n ON p.subject_key = p.subject_key",
    "SELECT plan FROM pg_catalog.pg_class",
    "SELECT subject_key FROM domicile.fences",
    "SELECT plan FROM domicile.profiles",
    "SELECT 1 AS one",
    "SELECT plan, plan FROM profiles",
    "SELECT count(*) AS n FROM profiles GROUP BY city",
    "SELECT plan FROM profiles; DROP TABLE profiles",
    "DELETE FROM profiles RETURNING plan",
    "WITH d AS (DELETE FROM profiles RETURNING plan) SELECT plan FROM d",
    "SELECT plan INTO copied FROM profiles",
    "SELECT (profiles).plan FROM profiles",
    "SELECT profiles FROM profiles",
    "SELECT plan::regclass AS x FROM profiles",
    "SELECT to_json(p) AS x FROM profiles p",
    "SELECT p.plan FROM profiles AS p(plan)",
    "SELECT x.plan FROM (SELECT p.plan FROM profiles AS p(plan)) AS x",
    "SELECT plan, count(*) AS n FROM profiles GROUP BY ALL",
    "SELECT plan, count(*) AS n FROM profiles GROUP BY ROLLUP (plan)",
    "SELECT plan, count(*) AS n FROM profiles GROUP BY GROUPING SETS ((plan), (city))",
    "SELECT plan, count(*) FILTER (WHERE city = 'Ulm') AS n FROM profiles GROUP BY plan",
    "SELECT city AS plan, count(*) AS n FROM profiles GROUP BY plan",
    "SELECT x.plan FROM profiles x JOIN (SELECT subject_key FROM profiles WHERE city = 'Ulm') y USING (subject_key)",
    "SELECT x.plan FROM profiles x NATURAL JOIN notes y",
    "SELECT x.plan FROM profiles x, LATERAL (SELECT city FROM profiles y WHERE y.subject_key = x.subject_key) z",
    "SELECT (SELECT city FROM profiles y WHERE y.subject_key = x.subject_key) AS plan FROM profiles x",
    "SELECT plan FROM (SELECT plan, city FROM profiles ORDER BY city LIMIT 3) x",
    "SELECT plan::jsonb -> 'a' AS c FROM profiles",
    "SELECT plan::json ->> 'a' AS c FROM profiles",
    "SELECT plan #>> '{a}' AS c FROM profiles",
    "SELECT plan ~ city AS c FROM profiles",
    "SELECT p::text AS c FROM profiles p",
    "SELECT p.*::text AS c FROM profiles p",
    "SELECT count(p) AS c, plan FROM profiles p GROUP BY plan",
    "SELECT ROW(plan, city) AS c FROM profiles",
    "SELECT ARRAY[plan, city] AS c FROM profiles",
    "SELECT min(plan ORDER BY city) AS c FROM profiles",
    "SELECT string_agg(city, ',') AS c FROM profiles",
    "SELECT domicile_subject::text AS c FROM profiles",
    "SELECT DISTINCT ON (city) plan FROM profiles",
    "SELECT plan FROM profiles EXCEPT SELECT topic FROM notes",
    "SELECT plan FROM profiles WHERE score = (SELECT max(weight) FROM profiles)",
    "SELECT plan FROM unnest(ARRAY['a']) AS profiles(plan)",
    "SELECT plan FROM generate_series(1, 3) AS profiles(plan)",
    "SELECT * EXCLUDE (city) FROM profiles",
    "SELECT x.plan FROM (SELECT FROM FROM profiles AS p(a, b)) x",
    "SELECT x.plan FROM profiles x JOIN (SELECT AS FROM profiles) y USING (subject_key)",
    "SELECT plan" + "[1]" * 3000 + " FROM profiles",
    "SELECT " + "+".join(["score"] * 1200) + " AS x FROM profiles",
    "SELECT " + "NOT " * 900 + "true AS x FROM profiles",
    "not sql at all",
    "",
    "SELECT " + "(" * 3000 + "plan" + ")" * 3000 + " FROM profiles",
]


@pytest.mark.parametrize("sql", UNFOLLOWED, ids=range(len(UNFOLLOWED)))
def test_what_cannot_be_followed_is_refused(sql: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        analyse(sql, CLASSES)
    assert "Ulm" not in str(caught.value)


def test_a_star_brings_columns_that_must_be_named() -> None:
    said = declared(
        changed(
            source={"sql": "SELECT p.* FROM notes p JOIN profiles q USING (subject_key)"},
            columns={"topic": {"treatment": "shareable"}},
            quasi_identifiers=["topic"],
        )
    )
    with pytest.raises(InvalidInput):
        plan(said, CLASSES, "eu")


def test_an_alias_does_not_make_a_column_shareable() -> None:
    said = declared(
        changed(
            source={"sql": "SELECT city AS region, plan FROM profiles"},
            columns={"region": {"treatment": "shareable"}, "plan": {"treatment": "shareable"}},
            quasi_identifiers=["region", "plan"],
        )
    )
    with pytest.raises(InvalidInput, match=r"columns\.region: a personal column without a treatment"):
        plan(said, CLASSES, "eu")


# -- treatments ----------------------------------------------------------------------------------------------------


def treated(data: dict[str, Any], value: Any) -> Any:
    said = declared(changed(columns={"x": data}, quasi_identifiers=[] if data["treatment"] == "pseudonym" else ["x"]))
    return treat(said.columns["x"], b"secret", "x")(value)


TREATED: list[tuple[dict[str, Any], Any, Any]] = [
    ({"treatment": "shareable"}, "pro", "pro"),
    ({"treatment": "shareable"}, None, None),
    ({"treatment": "shareable"}, date(2026, 5, 1), "2026-05-01"),
    ({"treatment": "truncate", "length": 2}, "10115", "10"),
    ({"treatment": "truncate", "length": 2}, "", ""),
    ({"treatment": "generalise", "hierarchy": {"Ulm": "south"}}, "Ulm", "south"),
    ({"treatment": "generalise", "hierarchy": {"Ulm": "south"}}, "Kiel", "other"),
    ({"treatment": "generalise", "hierarchy": {"true": "yes"}}, True, "yes"),
    ({"treatment": "generalise", "bins": [18, 30, 50]}, 17, "<18"),
    ({"treatment": "generalise", "bins": [18, 30, 50]}, 18, "18-30"),
    ({"treatment": "generalise", "bins": [18, 30, 50]}, 30, "30-50"),
    ({"treatment": "generalise", "bins": [18, 30, 50]}, 99, "50+"),
    ({"treatment": "generalise", "bins": [18]}, None, None),
    ({"treatment": "date", "to": "month"}, date(2026, 5, 31), "2026-05"),
    ({"treatment": "date", "to": "quarter"}, date(2026, 12, 31), "2026-Q4"),
    ({"treatment": "date", "to": "quarter"}, date(2026, 3, 31), "2026-Q1"),
    ({"treatment": "date", "to": "year"}, datetime(1999, 12, 31, tzinfo=UTC), "1999"),
    ({"treatment": "date", "to": "decade"}, date(1999, 12, 31), "1990s"),
    ({"treatment": "topcode", "above": 90}, 104, 90),
    ({"treatment": "topcode", "above": 90, "below": 10}, 3, 10),
    ({"treatment": "topcode", "above": 90}, 45, 45),
    ({"treatment": "remove-text"}, "a letter to alice", True),
    ({"treatment": "remove-text"}, None, False),
]


@pytest.mark.parametrize(("data", "value", "expected"), TREATED)
def test_each_treatment(data: dict[str, Any], value: Any, expected: Any) -> None:
    assert treated(data, value) == expected


@pytest.mark.parametrize(
    "data", [each for each, _, _ in TREATED if each["treatment"] not in ("shareable", "remove-text")]
)
def test_a_value_of_another_kind_is_refused_and_not_quoted(data: dict[str, Any]) -> None:
    with pytest.raises(Forbidden) as caught:
        treated(data, ["alice@example.eu"]) if "hierarchy" not in data else treat(
            declared(changed(columns={"x": {"treatment": "truncate", "length": 1}}, quasi_identifiers=["x"])).columns[
                "x"
            ],
            b"",
            "x",
        )(7)
    assert "alice" not in str(caught.value)


@given(st.text() | st.integers())
def test_a_pseudonym_is_letters_the_same_each_time_and_another_for_each_destination(value: str | int) -> None:
    one, other = secret_of(b"cell", "us/us-1", "plans"), secret_of(b"cell", "in/in-1", "plans")
    found = pseudonym(one, value)
    assert found == pseudonym(one, value)
    assert is_pseudonym(found)
    assert found != pseudonym(other, value)
    assert found != pseudonym(secret_of(b"cell", "us/us-1", "visits"), value)
    assert found != pseudonym(secret_of(b"another", "us/us-1", "plans"), value)


@given(st.dates(), st.sampled_from(["month", "quarter", "year", "decade"]))
def test_a_period_says_less_than_a_day(day: date, to: str) -> None:
    assert coarsen(day, to) == coarsen(day.replace(day=1), to)
