-- Publish a key; publishing it again changes nothing. No row where it is published for another use.
INSERT INTO directory.signing_keys AS known (kid, use, x)
VALUES ($1, $2, $3)
ON CONFLICT (kid) DO UPDATE SET published = known.published
WHERE known.use = excluded.use AND known.x = excluded.x
RETURNING kid
