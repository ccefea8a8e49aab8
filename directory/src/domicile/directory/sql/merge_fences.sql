-- A cell's fences ($1 keys, $2 epochs, $3 states; $4 its jurisdiction, $5 its name): each gets a pin at its epoch
-- unless there is one at that epoch or a higher one. A retired fence without a pin leaves a tombstone: where its
-- subject has moved to, a fence at a higher epoch says so. Of a key that is told twice, the higher epoch counts.
INSERT INTO directory.pins AS known (subject_key, jurisdiction, cell, epoch, state)
SELECT DISTINCT ON (subject_key) subject_key, $4, $5, epoch, CASE state WHEN 'retired' THEN 'erased' ELSE 'active' END
FROM unnest($1::bytea[], $2::bigint[], $3::text[]) AS told (subject_key, epoch, state)
WHERE get_byte(subject_key, 0) NOT IN (SELECT version FROM directory.peppers WHERE forgotten IS NOT NULL)
ORDER BY subject_key, epoch DESC
ON CONFLICT (subject_key) DO UPDATE
SET jurisdiction = excluded.jurisdiction, cell = excluded.cell, epoch = excluded.epoch, state = excluded.state
WHERE known.epoch < excluded.epoch
