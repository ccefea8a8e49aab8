-- The reconciliation under way, and how many seconds ago it began; null where there is none.
SELECT
    generation, wanted_revision,
    extract(epoch FROM clock_timestamp() - reconciling_since)::float8 AS age,
    coalesce((SELECT revision FROM directory.topology), 0) AS revision
FROM directory.clock
