-- One process at a time looks at the schema.
SELECT pg_advisory_xact_lock($1)
