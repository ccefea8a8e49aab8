"""For applications' own tests: a home in memory, which refuses what a real one refuses.

    home = memory_home("eu")
    await home.put(home.new(Profile, email="a@example.eu", plan="free"))

Sealing, blind indexes, cursors and every check are the SDK's own; what stands in is the database and the key service.
"""

from domicile.sdk.testing.abroad import memory_abroad
from domicile.sdk.testing.memory import MemoryKeys, MemoryStore, memory_home

__all__ = ["MemoryKeys", "MemoryStore", "memory_abroad", "memory_home"]
