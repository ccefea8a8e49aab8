-- Another key domain for a subject without keys. Called under its lock.
UPDATE keys.subjects SET domain = $2 WHERE subject = $1
