-- What was done with each of these keys.
INSERT INTO keys.audit (caller, cell, action, subject, principal)
SELECT $1, $2, $3, subject, principal FROM unnest($4::uuid[], $5::uuid[]) AS done (subject, principal)
