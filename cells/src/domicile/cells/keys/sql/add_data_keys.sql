-- Keep new wrapped keys; a key that another call made in the meantime stays as it is. In one order for all
-- callers, so that two batches wait for each other in turn.
INSERT INTO keys.data_keys (subject, principal, cell, domain, version, wrapped, check_value)
SELECT subject, principal, $7, domain, version, wrapped, check_value
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::integer[], $5::bytea[], $6::bytea[])
    AS made (subject, principal, domain, version, wrapped, check_value)
ORDER BY subject, principal
ON CONFLICT (subject, principal) DO NOTHING
RETURNING subject, principal
