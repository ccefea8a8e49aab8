"""The error tree: one code for each class, fields instead of sentences, and nothing else kept in an error."""

from __future__ import annotations

from http import HTTPStatus

import pytest

import domicile.model as model
from domicile.model import (
    CrossBorderAccess,
    DomicileError,
    ManifestError,
    ManifestProblem,
    Misdirected,
    NotFound,
    Unavailable,
    by_code,
)

TREE = {
    "DomicileError": ("domicile-error", 500, "Exception"),
    "InvalidInput": ("invalid-input", 422, "DomicileError"),
    "IdentitiesDisagree": ("identities-disagree", 400, "InvalidInput"),
    "TooLarge": ("too-large", 413, "InvalidInput"),
    "ManifestError": ("manifest-invalid", 422, "InvalidInput"),
    "ModelError": ("model-invalid", 422, "InvalidInput"),
    "UnsupportedQuery": ("unsupported-query", 422, "InvalidInput"),
    "Unauthenticated": ("unauthenticated", 401, "DomicileError"),
    "TokenInvalid": ("token-invalid", 401, "Unauthenticated"),
    "Forbidden": ("forbidden", 403, "DomicileError"),
    "WrongJurisdiction": ("wrong-jurisdiction", 403, "Forbidden"),
    "UnknownSubject": ("unknown-subject", 404, "DomicileError"),
    "NotFound": ("not-found", 404, "DomicileError"),
    "Conflict": ("conflict", 409, "DomicileError"),
    "Misdirected": ("misdirected", 421, "DomicileError"),
    "WrongCell": ("wrong-cell", 421, "Misdirected"),
    "CrossBorderAccess": ("cross-border-access", 451, "Misdirected"),
    "FenceRefused": ("fence-refused", 421, "DomicileError"),
    "Unavailable": ("unavailable", 503, "DomicileError"),
    "KeyDestroyed": ("key-destroyed", 410, "NotFound"),
    "KeyWithheld": ("key-withheld", 503, "Unavailable"),
    "TooMany": ("too-many", 429, "Unavailable"),
}
CLASSES = {
    name: value for name, value in vars(model).items() if isinstance(value, type) and issubclass(value, DomicileError)
}


def test_the_tree_is_the_one_that_is_drawn() -> None:
    assert {n: (c.code, int(c.status), c.__bases__[0].__name__) for n, c in CLASSES.items()} == TREE


def test_by_code_finds_every_class_and_nothing_else() -> None:
    for kind in CLASSES.values():
        assert by_code(kind.code) is kind
        assert HTTPStatus(kind.status).phrase
    for code in ("", "Forbidden", "internal", "http-404"):
        assert by_code(code) is None


def test_a_class_that_inherits_its_code_does_not_take_its_parents_place() -> None:
    class Lost(NotFound):
        """As an application may derive one."""

    assert Lost.code == "not-found"
    assert by_code("not-found") is NotFound


@pytest.mark.parametrize(
    ("where", "remedy", "text"),
    [("", "", "it broke"), ("here", "", "here: it broke"), ("", "mend it", "it broke (mend it)"),
     ("here", "mend it", "here: it broke (mend it)")],
)  # fmt: skip
def test_text_is_made_of_the_fields(where: str, remedy: str, text: str) -> None:
    error = NotFound("it broke", where=where, remedy=remedy)
    assert str(error) == text
    assert error.args == ("it broke",)
    assert (error.what, error.where, error.remedy) == ("it broke", where, remedy)
    assert error.extensions() == {}


def test_a_misdirection_names_the_right_place_and_keeps_the_subject_out_of_its_text() -> None:
    key = "ab" * 17
    error = CrossBorderAccess("home abroad", jurisdiction="eu", cell="eu-1", subject_key=key, public_host="eu.x")
    assert error.extensions() == {"jurisdiction": "eu", "public_host": "eu.x"}
    assert error.args == ("home abroad",)
    assert key not in str(error) + repr(error)
    assert isinstance(error, Misdirected)
    assert error.subject_key == key


def test_unavailable_says_when_to_try_again() -> None:
    assert Unavailable("gone").retry_after == 2
    assert Unavailable("gone", retry_after=30).retry_after == 30


def test_a_manifest_error_names_all_its_problems() -> None:
    problems = [ManifestProblem("a.b", "is wrong", "mend it"), ManifestProblem("c", "is missing")]
    error = ManifestError(problems, source="domicile.yaml")
    assert str(error) == "domicile.yaml: a.b: is wrong (mend it); c: is missing"
    assert error.problems == problems
