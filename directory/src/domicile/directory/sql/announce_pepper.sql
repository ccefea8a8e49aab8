-- Subjects may be named by a pepper's keys from now on; no row where it was forgotten.
INSERT INTO directory.peppers AS known (version)
VALUES ($1)
ON CONFLICT (version) DO UPDATE SET version = excluded.version
WHERE known.forgotten IS NULL
RETURNING version
