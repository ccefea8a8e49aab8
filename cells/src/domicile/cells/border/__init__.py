"""The border of one cell: what may leave its jurisdiction as anonymised data, and what may come in as such."""

from domicile.cells.border.api import serve_border
from domicile.cells.border.declaration import Declaration, declared, parse_declaration

__all__ = ["Declaration", "declared", "parse_declaration", "serve_border"]
