-- Destroy a cell's index secrets of the generations before one.
DELETE FROM keys.index_keys WHERE cell = $1 AND generation < $2 RETURNING generation
