-- The wrapped keys of these (subject, principal), whichever cell they belong to, and whether each is the one to write with.
SELECT k.subject, k.principal, k.cell, k.domain, k.version, k.wrapped, k.check_value, k.generation,
       k.generation = s.generation AS current
FROM keys.data_keys k
JOIN unnest($1::uuid[], $2::uuid[]) AS wanted (subject, principal) USING (subject, principal)
JOIN keys.subjects s USING (subject)
