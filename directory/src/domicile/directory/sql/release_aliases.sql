-- What was a subject's alias is anybody's.
DELETE FROM directory.aliases
WHERE subject_key = $1
