-- The published key set, in one order for all directory processes.
SELECT kid, use, x
FROM directory.signing_keys
ORDER BY kid
