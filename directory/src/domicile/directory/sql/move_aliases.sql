-- The aliases of a subject ($1) are those of the same subject by another key ($2).
UPDATE directory.aliases
SET subject_key = $2
WHERE subject_key = $1
