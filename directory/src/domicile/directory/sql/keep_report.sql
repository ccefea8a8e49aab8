-- How far a cell has come.
INSERT INTO directory.reports (jurisdiction, cell, last_key, fences, contradictions, superseded, done)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (jurisdiction, cell) DO UPDATE
SET last_key = excluded.last_key, fences = excluded.fences, contradictions = excluded.contradictions,
    superseded = excluded.superseded, done = excluded.done
