-- Who holds an alias ($1: its kind) by any of the keys that it may be named by.
SELECT alias_key, subject_key
FROM directory.aliases
WHERE kind = $1 AND alias_key = ANY ($2::bytea[])
