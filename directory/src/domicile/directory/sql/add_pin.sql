-- Pin a subject that has no pin; the row that another claim made stays, and then no row is returned.
INSERT INTO directory.pins (subject_key, jurisdiction, cell, epoch, state)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (subject_key) DO NOTHING
RETURNING subject_key
