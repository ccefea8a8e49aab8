"""The two classes of a field, who a row is about, and what stands in a personal field's place where it cannot be had.

Categories carry the names of the fideslang taxonomy (``user.contact.email``). There is no third class and
no default: a field without one is an error where its class is defined.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from domicile.model.errors import DomicileError, KeyDestroyed, ModelError, UnsupportedQuery
from domicile.model.taxonomy import check_form

FindScope = Literal[False, True, "cell"]


@dataclass(frozen=True, slots=True)
class Personal:
    """Never leaves home. Sealed at rest unless ``sealed=False`` (sortable, still withheld abroad).

    ``find=True`` keeps a blind index under the subject's secret; ``find="cell"`` one under the cell's, which
    allows look-ups across subjects and tells whoever reads the database which rows are equal.
    """

    category: str
    find: FindScope = False
    sealed: bool = True

    def __post_init__(self) -> None:
        check_form(self.category)
        if self.find not in (False, True, "cell"):
            raise ModelError(f"find={self.find!r} is not one of False, True and 'cell'")
        if self.find and not self.sealed:
            raise ModelError("a clear field needs no blind index", remedy="drop find=, or sealed=False")


@dataclass(frozen=True, slots=True)
class Shareable:
    """Metadata that may cross a border as it is."""

    category: str

    def __post_init__(self) -> None:
        check_form(self.category)


FieldClass = Personal | Shareable


@dataclass(frozen=True, slots=True)
class Principal:
    """Names who a row is about, where that is another person than the subject: ``Annotated[UUID, Principal(...)]``.

    The row's sealed fields are under that person's data key, and are gone when it is destroyed. It is personal: it
    never leaves home.
    """

    category: str

    def __post_init__(self) -> None:
        check_form(self.category)


class NoValue(ABC):
    """Stands in a personal field's place. It is not data, and refuses to be used as if it were."""

    __slots__ = ("category",)

    def __init__(self, category: str) -> None:
        self.category = category

    @abstractmethod
    def _refusal(self) -> DomicileError: ...

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise self._refusal()

    __str__ = __format__ = __bool__ = __iter__ = __len__ = __int__ = __float__ = __bytes__ = _refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = _refuse
    __getstate__ = __reduce__ = __reduce_ex__ = __copy__ = __deepcopy__ = _refuse


class Withheld(NoValue):
    """What one gets abroad in a personal field's place."""

    __slots__ = ("jurisdiction",)

    def __init__(self, category: str, jurisdiction: str) -> None:
        super().__init__(category)
        self.jurisdiction = jurisdiction

    def _refusal(self) -> DomicileError:
        return UnsupportedQuery(
            f"{self.category} is withheld: it stays in {self.jurisdiction}",
            remedy="test for it with isinstance(value, Withheld)",
        )

    def __repr__(self) -> str:
        return f"<withheld {self.category} in {self.jurisdiction}>"


class Destroyed(NoValue):
    """What one reads in a sealed field's place when the key of the person whom the row is about was destroyed.

    Whoever uses it as data gets KeyDestroyed.
    """

    __slots__ = ()

    def _refusal(self) -> DomicileError:
        return KeyDestroyed(
            f"{self.category} was destroyed with the key of whom it is about",
            remedy="record.destroyed names such fields",
        )

    def __repr__(self) -> str:
        return f"<destroyed {self.category}>"
