"""The key service of one jurisdiction: wraps, keeps and unwraps its cells' data keys."""

from domicile.cells.keys.api import serve_keys

__all__ = ["serve_keys"]
