-- Keep a cell's index secret of a generation ($6), unless another call made it. No clock makes it as old as the rotation.
INSERT INTO keys.index_keys (cell, domain, version, wrapped, check_value, generation, turned, created)
SELECT $1, $2, $3, $4, $5, $6, false,
       greatest(now(), (SELECT started + interval '1 microsecond' FROM keys.rotations WHERE cell = $1))
ON CONFLICT (cell, generation) DO NOTHING
RETURNING cell
