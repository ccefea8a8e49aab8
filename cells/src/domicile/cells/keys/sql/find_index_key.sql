-- The wrapped secret of a cell's blind indexes.
SELECT cell, domain, version, wrapped, check_value FROM keys.index_keys WHERE cell = $1
