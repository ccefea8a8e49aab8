-- The published key set, in one order for all directory processes.
SELECT kid, use, x
FROM directory.signing_keys
WHERE expires IS NULL OR expires > clock_timestamp()
ORDER BY kid
