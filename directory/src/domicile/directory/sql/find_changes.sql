-- The next changes after a sequence number, in the order of commits.
SELECT sequence, subject_key, jurisdiction, cell, epoch, state
FROM directory.changes
WHERE sequence > $1
ORDER BY sequence
LIMIT $2
