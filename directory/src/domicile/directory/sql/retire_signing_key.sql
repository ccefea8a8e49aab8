-- Take a key ($1) out of the set $3 seconds from now; of a publisher ($2) its own, else anybody's. No row for no such key.
UPDATE directory.signing_keys
SET expires = least(expires, clock_timestamp() + make_interval(secs => $3))
WHERE kid = $1 AND ($2::text IS NULL OR publisher = $2)
RETURNING kid
