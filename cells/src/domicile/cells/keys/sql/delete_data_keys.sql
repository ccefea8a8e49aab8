-- Destroy the wrapped keys of a principal, or of every principal of a subject.
DELETE FROM keys.data_keys WHERE subject = $1 AND ($2::uuid IS NULL OR principal = $2) RETURNING principal
