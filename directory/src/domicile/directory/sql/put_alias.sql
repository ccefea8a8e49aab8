-- Give an alias to a subject unless somebody holds it; the holder is returned either way, and whether it is new.
INSERT INTO directory.aliases AS held (kind, alias_key, subject_key)
VALUES ($1, $2, $3)
ON CONFLICT (kind, alias_key) DO UPDATE SET subject_key = held.subject_key
RETURNING subject_key, (xmax = 0) AS made
