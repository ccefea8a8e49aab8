"""The reference, from the code that it is about, so that it can't say anything else.

``python -m pages.reference`` writes ``docs/reference/``; a test makes it anew and fails where a page is stale.
"""

from pages.reference.written import FOLDER, documents, write

__all__ = ["FOLDER", "documents", "write"]
