-- The cell and key domain of subjects.
SELECT subject, cell, domain FROM keys.subjects WHERE subject = ANY ($1::uuid[])
