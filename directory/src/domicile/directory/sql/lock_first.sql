-- One claim at a time ($1) while no pepper is in use yet: by two peppers, two could not know of each other.
SELECT pg_advisory_xact_lock($1)
