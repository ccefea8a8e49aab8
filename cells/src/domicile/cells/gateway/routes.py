"""The gateway's routes as they are described: what goes in, what comes out, what is refused."""

from __future__ import annotations

from typing import Any, Final

from domicile.model import Conflict, FenceRefused, NotFound, UnknownSubject, WrongCell
from domicile.model.abroad import AFTER, MAX_ABROAD, MAX_CURSOR, ORDER, SIZE
from domicile.model.ids import KEY_BYTES
from domicile.model.wire import AbroadRows, ErasureResponse, FenceRequest, FenceResponse, PrincipalRequest, RekeyRequest
from domicile.service import Operation

_EPOCH: Final = {"type": "string", "pattern": "^[1-9][0-9]{0,17}$"}
PARAMETERS: Final[dict[str, dict[str, Any]]] = {
    "subject_key": {"type": "string", "pattern": f"^[0-9a-f]{{{2 * KEY_BYTES}}}$"},
    "id": {"type": "string", "format": "uuid"},
    "release": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    "name": {"type": "string", "pattern": "^[a-z][a-z0-9-]{0,31}$"},
    "revision": {"type": "string", "pattern": "^[1-9][0-9]{0,8}$"},
    "number": {"type": "string", "pattern": "^[0-9]{1,9}$"},
    "table": {"type": "string", "pattern": "^[a-z][a-z0-9_]{0,54}$"},
}
OPEN_FENCE: Final = Operation(
    "Open the subject's fence on a grant that the gateway fetches, or answer the one that is open",
    {200: FenceResponse},
    body=FenceRequest,
    query={"min_epoch": _EPOCH},
    refuses=(UnknownSubject, WrongCell, FenceRefused, Conflict),
)
REKEY: Final = Operation(
    "Name a subject by its key under another pepper, here and in the directory",
    {200: FenceResponse},
    body=RekeyRequest,
    refuses=(UnknownSubject, WrongCell, FenceRefused, Conflict),
)
ERASE: Final = Operation(
    "Erase a subject at home here for good; who asks again gets the same receipt",
    {200: ErasureResponse},
    query={"epoch": _EPOCH},
    refuses=(UnknownSubject, WrongCell, FenceRefused, Conflict),
)
SHRED: Final = Operation(
    "Delete what is stored about one principal of a subject, and destroy its key",
    {200: ErasureResponse},
    body=PrincipalRequest,
    refuses=(UnknownSubject, FenceRefused),
)
READ_ABROAD: Final = Operation(
    "A page of a subject's rows, shareable columns only, in the order of a shareable column or of their ids. Every "
    "other query parameter is a column that the rows equal, or its bounds: seats.at_least, .above, .at_most, .below. "
    "Where there are more rows, the answer has a next, which page.after takes with the same question",
    {200: AbroadRows},
    query={
        SIZE: {"type": "integer", "minimum": 1, "maximum": MAX_ABROAD, "default": MAX_ABROAD},
        ORDER: {"type": "string", "pattern": "^-?[a-z][a-z0-9_]{0,62}$"},
        AFTER: {"type": "string", "maxLength": MAX_CURSOR},
    },
    refuses=(UnknownSubject, NotFound),
)
