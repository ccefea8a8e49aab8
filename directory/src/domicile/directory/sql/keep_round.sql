-- The counts after a placement.
UPDATE directory.rounds
SET cells = $2::jsonb
WHERE jurisdiction = $1
