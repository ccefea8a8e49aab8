-- New pins, and those at a higher epoch; how many of each, as of the moment when the statement began.
WITH known AS (
    SELECT subject_key FROM incoming JOIN directory.pins USING (subject_key)
), merged AS (
    INSERT INTO directory.pins AS known (subject_key, jurisdiction, cell, epoch, state)
    SELECT subject_key, jurisdiction, cell, epoch, state FROM incoming ORDER BY subject_key
    ON CONFLICT (subject_key) DO UPDATE
    SET jurisdiction = excluded.jurisdiction, cell = excluded.cell, epoch = excluded.epoch, state = excluded.state
    WHERE known.epoch < excluded.epoch
    RETURNING subject_key
)
SELECT count(*) FILTER (WHERE known.subject_key IS NULL) AS inserted, count(known.subject_key) AS updated
FROM merged LEFT JOIN known USING (subject_key)
