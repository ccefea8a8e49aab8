-- A reconciliation under way also brings back what followed the generation that another process has seen ($1).
WITH known AS (
    INSERT INTO directory.generations (previous, generation, began, reconciled)
    SELECT $1, generation, sequence, true FROM directory.clock
    ON CONFLICT (previous, generation) DO UPDATE SET reconciled = true
)
UPDATE directory.clock SET wanted_revision = greatest(wanted_revision, $2)
