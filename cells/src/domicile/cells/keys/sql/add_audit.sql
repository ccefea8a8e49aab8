-- One call's unwrapping.
INSERT INTO keys.audit (cell, count, created) VALUES ($1, $2, $3)
