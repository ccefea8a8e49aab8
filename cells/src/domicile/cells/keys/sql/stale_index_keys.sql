-- Index secrets of a domain that are wrapped under another version of its key-encryption key.
SELECT cell, domain, version, wrapped, check_value
FROM keys.index_keys WHERE domain = $1 AND version <> $2 ORDER BY cell LIMIT $3
