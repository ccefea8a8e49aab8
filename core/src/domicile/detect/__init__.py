"""Values that look personal, found in text that should hold none: the last look at what leaves a jurisdiction."""

from domicile.detect.detector import MAX_TEXT, Detector, Finding, Rule

__all__ = ["MAX_TEXT", "Detector", "Finding", "Rule"]
