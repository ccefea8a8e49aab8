-- The versions of a domain's key-encryption key that the service holds itself.
SELECT version, check_value FROM keys.keks WHERE domain = $1
