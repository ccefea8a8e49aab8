-- Keep a cell's new index secret, unless another call made one in the meantime.
INSERT INTO keys.index_keys (cell, domain, version, wrapped, check_value) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (cell) DO NOTHING
RETURNING cell
