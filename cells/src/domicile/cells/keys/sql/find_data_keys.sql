-- The wrapped keys of these (subject, principal), whichever cell they belong to.
SELECT subject, principal, cell, domain, version, wrapped, check_value
FROM keys.data_keys
JOIN unnest($1::uuid[], $2::uuid[]) AS wanted (subject, principal) USING (subject, principal)
