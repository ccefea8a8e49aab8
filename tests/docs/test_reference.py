"""The reference says what the code says today."""

from __future__ import annotations

import json

import jsonschema
import pytest
from domicile_testing.documentation import DOCS, ROOT
from pages.reference import FOLDER, documents
from pages.reference.services import services

from domicile.model.yaml_text import read_yaml

STALE = "stale: run `make docs`, or `python -m pages.reference` with the new files"


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return documents()


def test_no_page_is_stale(made: dict[str, str]) -> None:
    assert DOCS / "reference" == FOLDER
    there = {path.name: path.read_text() for path in FOLDER.iterdir()}
    assert sorted(there) == sorted(made), STALE
    assert [name for name in made if there[name] != made[name]] == [], STALE


def test_it_does_not_depend_on_what_was_imported_before(made: dict[str, str]) -> None:
    """Another test may have made errors and settings of its own."""
    from domicile.model import InvalidInput

    class Strange(InvalidInput):
        code = "strange"

    assert documents() == made
    del Strange


def test_the_schema_takes_what_the_manifest_takes(made: dict[str, str]) -> None:
    schema = json.loads(made["manifest.schema.json"])
    jsonschema.Draft202012Validator.check_schema(schema)
    worlds = [ROOT / "ops/src/domicile/ops/default_world.yaml", ROOT / "k8s/domicile.yaml"]
    validator = jsonschema.Draft202012Validator(schema)
    for world in worlds:
        data = json.loads(json.dumps(read_yaml(world.read_text(), source=world.name)))
        assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(data)] == []
        assert list(validator.iter_errors({**data, "jurisdiction": {}})) != [], "an unknown key"


def test_each_route_has_its_line(made: dict[str, str]) -> None:
    for service in services():
        for route in service.routes:
            path = route.path.partition("{target")[0]
            assert path in made["http.md"], f"{service.name} {route.method} {route.path}"
        if service.file:
            assert json.loads(made[service.file])["paths"]


def test_no_page_holds_a_place_of_this_machine(made: dict[str, str]) -> None:
    assert [name for name, text in made.items() if str(ROOT) in text] == []
