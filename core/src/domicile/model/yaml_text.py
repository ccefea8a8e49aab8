"""A manifest's text as plain data: bounded, and without a key that is given twice.

YAML is read as version 1.2, where Norway's ``NO`` is a country and not ``false``.
"""

from __future__ import annotations

from typing import Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from domicile.model.errors import ManifestError, ManifestProblem

MAX_MANIFEST_BYTES: Final = 1 << 20
MAX_MANIFEST_DEPTH: Final = 32
MAX_MANIFEST_VALUES: Final = 200_000


def _check_size(data: object, depth: int = 0, seen: int = 0) -> int:
    """How many values there are, anchors written out. Raises ValueError for more than any manifest has."""
    seen += 1
    if depth > MAX_MANIFEST_DEPTH or seen > MAX_MANIFEST_VALUES:
        raise ValueError("nested or repeated beyond any manifest (an anchor inside itself?)")
    children = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    for child in children:
        seen = _check_size(child, depth + 1, seen)
    return seen


def read_yaml(text: str, *, source: str = "manifest") -> object:
    """Plain data from YAML 1.2 text; raises ManifestError with line and column, or for a duplicate key."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_MANIFEST_BYTES:
        raise ManifestError([ManifestProblem("(top)", f"larger than {MAX_MANIFEST_BYTES} bytes")], source=source)
    try:
        data: object = YAML(typ="safe", pure=True).load(text)
        _check_size(data)
        return data
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "(top)"
        reason = (error.problem or "not YAML").splitlines()[0]
        raise ManifestError([ManifestProblem(place, f"not valid YAML: {reason}")], source=source) from None
    except (YAMLError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ManifestError([ManifestProblem("(top)", f"not valid YAML: {reason}")], source=source) from None
