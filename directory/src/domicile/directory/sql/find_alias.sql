-- Whose alias it is.
SELECT subject_key
FROM directory.aliases
WHERE kind = $1 AND alias_key = $2
