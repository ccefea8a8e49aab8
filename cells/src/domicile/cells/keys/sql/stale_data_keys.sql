-- Some keys of a domain that are wrapped under another version of its key-encryption key.
SELECT subject, principal, cell, domain, version, wrapped, check_value, generation
FROM keys.data_keys WHERE domain = $1 AND version <> $2 ORDER BY version, subject, principal, generation LIMIT $3
