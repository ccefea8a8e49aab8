-- Subjects that are new here, in one order for all callers.
INSERT INTO keys.subjects (subject, cell, domain)
SELECT DISTINCT subject, $2, $3 FROM unnest($1::uuid[]) AS wanted (subject) ORDER BY subject
ON CONFLICT (subject) DO NOTHING
