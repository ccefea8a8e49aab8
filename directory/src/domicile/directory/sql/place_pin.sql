-- Pin a subject that has no pin, or had one until it was erased, above its epoch; no row where there is one.
INSERT INTO directory.pins AS known (subject_key, jurisdiction, cell, epoch, state)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (subject_key) DO UPDATE
SET jurisdiction = excluded.jurisdiction, cell = excluded.cell, epoch = excluded.epoch, state = excluded.state
WHERE known.state = 'erased' AND known.epoch < excluded.epoch
RETURNING subject_key
