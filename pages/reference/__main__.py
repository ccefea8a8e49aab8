"""Writes the pages and says which ones changed."""

from pages.reference.written import write

for name in write():
    print(f"written: docs/reference/{name}")
