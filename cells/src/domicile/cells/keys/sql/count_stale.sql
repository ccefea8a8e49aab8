-- How many keys of a domain are wrapped under another version of its key-encryption key.
SELECT (SELECT count(*) FROM keys.data_keys WHERE domain = $1 AND version <> $2)
     + (SELECT count(*) FROM keys.index_keys WHERE domain = $1 AND version <> $2)
