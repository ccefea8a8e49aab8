-- Keep these subjects' keys from being destroyed until the end of the transaction, in one order for all callers.
SELECT subject FROM keys.subjects WHERE subject = ANY ($1::uuid[]) ORDER BY subject FOR SHARE
