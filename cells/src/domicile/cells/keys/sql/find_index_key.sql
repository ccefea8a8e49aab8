-- The wrapped secret of a cell's blind indexes.
SELECT wrapped FROM keys.index_keys WHERE cell = $1
