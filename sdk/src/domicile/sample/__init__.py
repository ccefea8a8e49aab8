"""The sample application: sign-up, log-in, a profile and notes, on nothing but the SDK.

Naming its record classes here lets an operator apply them: ``domicile schema apply domicile.sample``.
"""

from domicile.sample.records import Note, Profile

__all__ = ["Note", "Profile"]
