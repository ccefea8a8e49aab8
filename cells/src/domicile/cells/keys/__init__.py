"""The key service of one jurisdiction: makes, keeps, hands out and destroys its cells' data keys."""

from domicile.cells.keys.hold import begin_version, serve_holder, switch
from domicile.cells.keys.serve import KeySettings, serve_keys

__all__ = ["KeySettings", "begin_version", "serve_holder", "serve_keys", "switch"]
