-- One at a time takes a step with a cell's index secrets.
SELECT cell FROM keys.index_keys WHERE cell = $1 ORDER BY generation FOR UPDATE
