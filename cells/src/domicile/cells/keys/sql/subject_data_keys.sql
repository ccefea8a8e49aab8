-- All wrapped keys of a subject.
SELECT subject, principal, cell, domain, version, wrapped, check_value, generation FROM keys.data_keys WHERE subject = $1 ORDER BY generation, principal
