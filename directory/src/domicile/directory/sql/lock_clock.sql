-- No pin changes until this transaction ends.
SELECT FROM directory.clock FOR UPDATE
