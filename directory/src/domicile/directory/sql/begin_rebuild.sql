-- Ask the cells for every pin, as of a database that has lost them; $1: the topology's revision that was published.
-- Whether that begins: not where it is under way already.
WITH begun AS (
    SELECT directory.begin_generation(NULL, true, $1) FROM directory.clock WHERE reconciling_since IS NULL
)
SELECT count(*) > 0 FROM begun
