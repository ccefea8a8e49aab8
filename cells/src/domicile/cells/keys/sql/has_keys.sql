-- Whether a subject has any data key.
SELECT EXISTS (SELECT FROM keys.data_keys WHERE subject = $1)
