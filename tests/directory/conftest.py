"""A directory over real PostgreSQL and mutual TLS, its tables empty at the start of each test."""

from __future__ import annotations

from domicile_testing.directory_fixtures import database, directory, empty, operator, storage, trust

__all__ = ["database", "directory", "empty", "operator", "storage", "trust"]
