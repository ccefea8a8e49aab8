-- The same key under another version, unless it was re-wrapped or destroyed in the meantime.
UPDATE keys.data_keys SET version = $4, wrapped = $5 WHERE subject = $1 AND principal = $2 AND wrapped = $3
