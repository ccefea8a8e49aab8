-- Give an alias that nobody holds to a subject.
INSERT INTO directory.aliases (kind, alias_key, subject_key)
VALUES ($1, $2, $3)
