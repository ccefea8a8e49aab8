-- Where the log stands, in which history, and what became of the generation ($1) that a process saw last, which
-- had come to a sequence number ($2): whether nothing of it is lost, or what is was had back.
SELECT
    generation, sequence, trimmed,
    history = directory.history() AS current,
    reconciling_since IS NOT NULL AS reconciling,
    coalesce((SELECT revision FROM directory.topology), 0) AS revision,
    EXISTS (
        SELECT FROM directory.generations AS next
        WHERE next.previous = $1 AND (next.reconciled OR next.began >= $2)
    ) AS succeeded
FROM directory.clock
