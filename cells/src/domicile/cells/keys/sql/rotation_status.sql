-- How far the rotation of a cell's keys is: subjects with old keys alone, and with both; and the generation that the
-- cell's index secret is to have, where there is one of before.
WITH old AS (
    SELECT k.subject, EXISTS (
        SELECT FROM keys.data_keys n WHERE n.subject = k.subject AND n.generation > max(k.generation)
    ) AS turning
    FROM keys.rotations r JOIN keys.data_keys k ON k.cell = r.cell AND k.created < r.started
    WHERE r.cell = $1 GROUP BY k.subject
)
SELECT (SELECT running FROM keys.rotations WHERE cell = $1) AS running,
       (SELECT started FROM keys.rotations WHERE cell = $1) AS started,
       (SELECT max(k.generation) + 1 FROM keys.rotations r
        JOIN keys.index_keys k ON k.cell = r.cell AND k.created < r.started WHERE r.cell = $1) AS index,
       count(*) FILTER (WHERE NOT turning) AS due, count(*) FILTER (WHERE turning) AS turning
FROM old
