"""Look for values where they must not lie: in every file, and in whatever is packed inside of it."""

from domicile.ops.scan.needles import (
    MIN_VALUE_BYTES,
    Needle,
    base64_cores,
    byte_forms,
    needles_for,
    needles_for_sealed,
    needles_for_value,
)
from domicile.ops.scan.report import Hit, Report
from domicile.ops.scan.scanner import Scanner, files_below

__all__ = [
    "MIN_VALUE_BYTES",
    "Hit",
    "Needle",
    "Report",
    "Scanner",
    "base64_cores",
    "byte_forms",
    "files_below",
    "needles_for",
    "needles_for_sealed",
    "needles_for_value",
]
