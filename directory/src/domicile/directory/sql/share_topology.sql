-- Held by a claim until it ends, so that no claim under the old topology ends after a new one is published.
SELECT pg_advisory_xact_lock_shared($1)
