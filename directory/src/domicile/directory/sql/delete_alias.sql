-- Take an alias from the subject named; another subject's stays.
DELETE FROM directory.aliases
WHERE kind = $1 AND alias_key = $2 AND subject_key = $3
