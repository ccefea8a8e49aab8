"""Real certificates and real PostgreSQL for the tests of every room."""

from domicile_testing.certificates import Trust
from domicile_testing.databases import Storage, free_port, running_storage

__all__ = ["Storage", "Trust", "free_port", "running_storage"]
