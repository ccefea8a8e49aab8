-- Compare and set: the first revision is 1, each other one more than the current. No row where it is not.
INSERT INTO directory.topology AS current (revision, signed)
SELECT $1::bigint, $2::text
WHERE $1::bigint = 1 OR EXISTS (SELECT FROM directory.topology)
ON CONFLICT (only_row) DO UPDATE
SET revision = excluded.revision, signed = excluded.signed, published = excluded.published
WHERE current.revision = excluded.revision - 1
RETURNING revision
