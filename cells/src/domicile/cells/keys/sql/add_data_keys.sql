-- Keep new wrapped keys; a key that another call made in the meantime stays as it is. In one order for all
-- callers, so that two batches wait for each other in turn.
INSERT INTO keys.data_keys (subject, principal, cell, domain, wrapped)
SELECT subject, principal, $4, $5, wrapped
FROM unnest($1::uuid[], $2::uuid[], $3::bytea[]) AS made (subject, principal, wrapped)
ORDER BY subject, principal
ON CONFLICT (subject, principal) DO NOTHING
RETURNING subject
