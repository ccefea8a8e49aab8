-- A domain's first key-encryption key. Called under the start lock.
INSERT INTO keys.domains (domain, check_value) VALUES ($1, $2)
