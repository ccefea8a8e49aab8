-- One import at a time ($1): two would each wait for pins of the other.
SELECT pg_advisory_xact_lock($1)
