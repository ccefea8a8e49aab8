"""The border's ledger: what crossed and what was refused, only ever added to, witnessed by other jurisdictions."""

from domicile.cells.ledger.serve import open_ledger

__all__ = ["open_ledger"]
