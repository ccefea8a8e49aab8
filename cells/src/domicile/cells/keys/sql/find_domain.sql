-- What the domain's key-encryption key must reproduce.
SELECT check_value FROM keys.domains WHERE domain = $1
