-- Write with a cell's index secret of this generation from now on.
UPDATE keys.index_keys SET turned = true WHERE cell = $1 AND generation = $2 AND NOT turned
