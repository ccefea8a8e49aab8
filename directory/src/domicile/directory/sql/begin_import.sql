-- What is imported, and in which line it stood, until the transaction ends.
CREATE TEMPORARY TABLE incoming (
    subject_key bytea, jurisdiction text, cell text, epoch bigint, state text, line bigint
) ON COMMIT DROP
