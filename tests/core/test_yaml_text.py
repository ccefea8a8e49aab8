"""What no text of a manifest may do to whoever reads it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from domicile_testing.good_manifest import DATA, GOOD, changed, yaml_problems
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domicile.model import Manifest, ManifestError, load_manifest, parse_manifest, read_yaml


def test_a_duplicate_key_is_refused_with_its_line() -> None:
    text = GOOD.replace("deployment: acme", "deployment: acme\ndeployment: acme2")
    ((path, reason),) = yaml_problems(text)
    assert path == "line 4, column 1"
    assert 'duplicate key "deployment"' in reason


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        ("a: [", "line 1, column 5", "not valid YAML"),
        ("a: b: c", "line 1, column 5", "not valid YAML"),
        ("a: 1\n\tb: 2", "line 2, column 1", "not valid YAML"),
        ("a: *b", "line 1, column 4", "undefined alias"),
        ("--- 1\n--- 2", "line 2, column 1", "not valid YAML"),
        ("a: !!python/object/apply:os.system [id]", "line 1, column 4", "not valid YAML"),
        ("a: !!int x", "(top)", "not valid YAML"),
        ("a: 2020-99-99", "(top)", "not valid YAML"),
        ("\0", "(top)", "not valid YAML"),
        ("\ud800", "(top)", "not valid YAML"),
        ("[" * 50_000, "(top)", "not valid YAML"),
        ("{a: " * 5_000, "(top)", "not valid YAML"),
        ("#" * (1 << 20) + "\n", "(top)", "larger than 1048576 bytes"),
        ("#" + "é" * (1 << 19) + "\n", "(top)", "larger than 1048576 bytes"),
        ("", "(top)", "not a mapping of keys"),
        ("- version: 1", "(top)", "not a mapping of keys"),
        ("acme", "(top)", "not a mapping of keys"),
        ("42", "(top)", "not a mapping of keys"),
    ],
    ids=lambda v: repr(v)[:30],
)
def test_what_is_no_yaml_or_no_mapping(text: str, path: str, reason: str) -> None:
    ((where, why),) = yaml_problems(text)
    assert where == path
    assert reason in why


def test_old_yaml_where_norway_is_false_is_refused() -> None:
    assert yaml_problems("%YAML 1.1\n---" + GOOD) == [
        ("jurisdictions.eu.countries[4]", "input should be a valid string")
    ]


@pytest.mark.parametrize("key", ["1", "null", "2026-01-01", "[a, b]", "true"])
def test_a_key_is_text(key: str) -> None:
    assert len(yaml_problems(f"{GOOD}? {key}\n: 1\n")) == 1


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def paths(data: object, prefix: str = "") -> list[str]:
    found = [prefix] if prefix else []
    items: list[tuple[object, object]] = []
    if isinstance(data, dict):
        items = list(data.items())
    elif isinstance(data, list):
        items = list(enumerate(data))
    for key, value in items:
        found += paths(value, f"{prefix}/{key}" if prefix else str(key))
    return found


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.sampled_from(paths(DATA)), VALUES)
def test_any_value_anywhere_loads_or_is_refused_with_a_path(path: str, value: object) -> None:
    try:
        manifest = parse_manifest(changed((path, value)))
    except ManifestError as error:
        refused = error.problems
    else:
        assert parse_manifest(manifest.topology()).topology() == manifest.topology()
        return
    assert refused
    assert all(problem.path and problem.reason for problem in refused)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_refused_as_a_manifest(text: str) -> None:
    with pytest.raises(ManifestError):
        load_manifest(text)


@pytest.mark.parametrize(
    "loader", [lambda: parse_manifest(None), lambda: parse_manifest([]), lambda: parse_manifest("x")]
)
def test_other_data_is_no_manifest(loader: Callable[[], Manifest]) -> None:
    with pytest.raises(ManifestError, match="not a mapping of keys"):
        loader()


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]",
        "a: &a {b: *a}",
        "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 20 if n else ['1'])}]\n" for n in range(9)),
        "[" * 40 + "]" * 40,
    ],
)
def test_anchors_that_repeat_without_end_are_refused_at_once(text: str) -> None:
    with pytest.raises(ManifestError, match="nested or repeated beyond any manifest"):
        read_yaml(text)
