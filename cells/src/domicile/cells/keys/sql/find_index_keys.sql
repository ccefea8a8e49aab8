-- A cell's index secrets, the one to write with first.
SELECT cell, domain, version, wrapped, check_value, generation
FROM keys.index_keys WHERE cell = $1 ORDER BY turned DESC, generation DESC
