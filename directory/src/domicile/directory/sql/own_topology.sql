-- Held by a publication: waits for the claims under way, in turn, and those that come later wait for it.
SELECT pg_advisory_xact_lock($1)
