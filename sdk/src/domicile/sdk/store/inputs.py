"""What an operator hands to ``domicile schema``: places, classes, rows. What is wrong with it is told in one line."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from domicile.model.errors import DomicileError, InvalidInput
from domicile.sdk.records import Record
from domicile.sdk.references import Ref, Reference
from domicile.sdk.store.pulls import MAX_ROWS
from domicile.sdk.store.schema import Stored
from domicile.service import where_invalid
from domicile.telemetry import place_of

MAX_LINE_BYTES: Final = 1 << 20


def checked(kind: Any, value: str, where: str, example: str) -> str:
    """A text of a kind of the model's; raises InvalidInput that names the option or the variable which holds it."""
    try:
        return str(TypeAdapter[str](kind).validate_python(value))
    except ValidationError:
        pass
    raise InvalidInput(f"cannot be {value!r}", where=where, remedy=f"such as {example}")


def _imported(module: str) -> ModuleType:
    """Raises InvalidInput for what is no module, and ModelError for a class in it that is none of ours."""
    sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module)
    except DomicileError:
        raise
    except ModuleNotFoundError as error:
        missing = error.name or module
        known = module != missing and not module.startswith(f"{missing}.")
        what = f"imports {missing}, which is not there" if known else "no such module"
        refusal = InvalidInput(what, where=module, remedy="run this where it can be imported")
    except (Exception, SystemExit) as error:
        what = f"cannot be imported: {type(error).__name__} at {place_of(error)}"
        refusal = InvalidInput(what, where=module, remedy=f"python -m {module} says more")
    finally:
        sys.path.pop(0)
    raise refusal


def table_of(kind: Stored) -> str:
    return kind.domicile_table.name if issubclass(kind, Record) else kind.domicile_reference.name


def classes_in(module: str) -> list[Stored]:
    """The classes that a module names, in the order of their tables. Raises InvalidInput for none."""
    found = {
        value
        for value in vars(_imported(module)).values()
        if isinstance(value, type) and issubclass(value, Record | Reference) and value not in (Record, Reference)
    }
    if not found:
        raise InvalidInput("names no class of records or references", where=module)
    return sorted(found, key=table_of)


def reference_in(module: str, table: str) -> type[Reference]:
    """The class of one reference table. Raises InvalidInput where the module names none."""
    for kind in classes_in(module):
        if issubclass(kind, Reference) and table_of(kind) == table:
            return kind
    raise InvalidInput(f"names no class of references with table={table!r}", where=module)


def rows_in(kind: type[Ref], file: Path) -> list[Ref]:
    """The rows of a file of JSON Lines. Raises InvalidInput that names the line and the field."""
    rows: list[Ref] = []
    try:
        with file.open("rb") as lines:
            while line := lines.readline(MAX_LINE_BYTES):
                where = f"{file.name}:{len(rows) + 1}"
                if len(rows) >= MAX_ROWS or len(line) == MAX_LINE_BYTES:
                    raise InvalidInput(f"at most {MAX_ROWS:,} lines of 1 MiB", where=where)
                try:
                    rows.append(kind.model_validate_json(line))
                except ValidationError as error:
                    raise InvalidInput(where_invalid(error), where=where) from None
    except OSError as error:
        raise InvalidInput(f"cannot be read ({type(error).__name__})", where=str(file)) from None
    return rows
