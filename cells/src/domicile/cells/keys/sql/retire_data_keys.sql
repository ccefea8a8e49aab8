-- Destroy a subject's keys of the generations before one. Called under its lock.
DELETE FROM keys.data_keys WHERE subject = $1 AND generation < $2 RETURNING principal
