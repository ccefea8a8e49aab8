-- Forget the changes that are older than an interval; who has not read them reads the whole map anew.
WITH gone AS (
    DELETE FROM directory.changes
    WHERE changed < clock_timestamp() - $1::interval
    RETURNING sequence
)
UPDATE directory.clock
SET trimmed = greatest(trimmed, (SELECT max(sequence) FROM gone))
WHERE EXISTS (SELECT FROM gone)
