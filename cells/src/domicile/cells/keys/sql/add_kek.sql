-- A version of a domain's key-encryption key, unless another process recorded it first.
INSERT INTO keys.keks (domain, version, check_value) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING
