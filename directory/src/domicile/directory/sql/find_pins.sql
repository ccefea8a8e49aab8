-- The pins of those subject keys that have one, in no order.
SELECT subject_key, jurisdiction, cell, epoch, state
FROM directory.pins
WHERE subject_key = ANY ($1::bytea[])
