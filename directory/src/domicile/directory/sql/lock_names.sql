-- One transaction at a time for whoever is named by any of these keys ($2; $1: what they are keys of). Processes at
-- different peppers name somebody by different sets of keys, which have one in common.
SELECT pg_advisory_xact_lock($1, named.hash)
FROM (SELECT DISTINCT hashtext(encode(key, 'hex')) AS hash FROM unnest($2::bytea[]) AS key ORDER BY hash) AS named
