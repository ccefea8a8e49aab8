-- Leave a tombstone of a subject ($1), so far ($3) above its epoch ($2).
UPDATE directory.pins
SET state = 'erased', epoch = epoch + $3::bigint
WHERE subject_key = $1 AND epoch = $2
RETURNING subject_key, jurisdiction, cell, epoch, state
