-- The same secret under another version, unless it was re-wrapped in the meantime.
UPDATE keys.index_keys SET version = $3, wrapped = $4 WHERE cell = $1 AND wrapped = $2
