-- Keep this subject's keys from being made until the end of the transaction.
SELECT cell, domain, generation, destroyed FROM keys.subjects WHERE subject = $1 FOR UPDATE
