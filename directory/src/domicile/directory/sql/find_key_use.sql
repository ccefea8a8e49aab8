-- What a key is published for.
SELECT use
FROM directory.signing_keys
WHERE kid = $1
