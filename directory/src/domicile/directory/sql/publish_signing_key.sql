-- Publish a key; publishing it again changes nothing. No row where it is published for another use, or retired.
INSERT INTO directory.signing_keys AS known (kid, use, x, publisher)
VALUES ($1, $2, $3, $4)
ON CONFLICT (kid) DO UPDATE SET publisher = coalesce(known.publisher, excluded.publisher)
WHERE known.use = excluded.use AND known.x = excluded.x AND known.expires IS NULL
RETURNING kid
