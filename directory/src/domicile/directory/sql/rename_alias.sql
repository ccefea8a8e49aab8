-- Name an alias of a subject ($4) by its key ($3) under another pepper.
UPDATE directory.aliases
SET alias_key = $3
WHERE kind = $1 AND alias_key = $2 AND subject_key = $4
