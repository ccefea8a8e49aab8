-- The next pins ($2 at most) after a key ($1), packed as records of a snapshot, and the homes that they number.
WITH block AS (
    SELECT subject_key, jurisdiction || '/' || cell AS home, epoch, state
    FROM directory.pins WHERE subject_key > $1 ORDER BY subject_key LIMIT $2
), homes AS (
    SELECT home, row_number() OVER (ORDER BY home) - 1 AS number FROM (SELECT DISTINCT home FROM block) AS named
)
SELECT
    (SELECT array_agg(home ORDER BY number) FROM homes) AS homes,
    string_agg(
        subject_key || int8send(epoch)
            || CASE state WHEN 'active' THEN '\x00' WHEN 'moving' THEN '\x01' ELSE '\x02' END::bytea
            || int2send(number::smallint),
        '' ORDER BY subject_key
    ) AS records
FROM block JOIN homes USING (home)
