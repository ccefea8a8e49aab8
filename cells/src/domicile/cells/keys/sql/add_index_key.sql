-- Keep a cell's first index secret, unless another call made one in the meantime.
INSERT INTO keys.index_keys (cell, domain, version, wrapped, check_value)
SELECT $1, $2, $3, $4, $5 WHERE NOT EXISTS (SELECT FROM keys.index_keys WHERE cell = $1)
ON CONFLICT (cell, generation) DO NOTHING
RETURNING cell
