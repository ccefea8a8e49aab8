-- Forget the oldest changes ($2 at most) that are older than an interval, or of a generation before; how many those
-- were. Who has not read them reads the whole map anew.
WITH gone AS (
    DELETE FROM directory.changes
    WHERE sequence IN (SELECT sequence FROM directory.changes ORDER BY sequence LIMIT $2)
        AND (changed < clock_timestamp() - $1::interval OR sequence <= (SELECT trimmed FROM directory.clock))
    RETURNING sequence
), moved AS (
    UPDATE directory.clock
    SET trimmed = (SELECT max(sequence) FROM gone)
    WHERE trimmed < (SELECT max(sequence) FROM gone)
)
SELECT count(*) FROM gone
