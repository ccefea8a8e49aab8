-- Keep a cell's new index secret, unless another call made one in the meantime.
INSERT INTO keys.index_keys (cell, domain, wrapped) VALUES ($1, $2, $3)
ON CONFLICT (cell) DO NOTHING
RETURNING cell
