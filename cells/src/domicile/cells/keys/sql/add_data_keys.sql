-- Keep new wrapped keys, of the generation that their subject writes with or of a later one ($8); a key that another
-- call made in the meantime stays as it is. None that is made during a rotation is older than it, whatever the clock says.
-- In one order for all callers, so that two batches wait for each other in turn.
INSERT INTO keys.data_keys (subject, principal, cell, domain, version, wrapped, check_value, generation, created)
SELECT subject, principal, $7, made.domain, version, wrapped, check_value, coalesce($8, s.generation),
       greatest(now(), (SELECT started + interval '1 microsecond' FROM keys.rotations WHERE cell = $7))
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::integer[], $5::bytea[], $6::bytea[])
    AS made (subject, principal, domain, version, wrapped, check_value)
JOIN keys.subjects s USING (subject)
ORDER BY subject, principal
ON CONFLICT (subject, principal, generation) DO NOTHING
RETURNING subject, principal
