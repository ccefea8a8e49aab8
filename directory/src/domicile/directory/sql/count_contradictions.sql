-- Of a cell's fences that are not retired: how many have a pin elsewhere at the very same epoch.
SELECT count(*)
FROM unnest($1::bytea[], $2::bigint[], $3::text[]) AS told (subject_key, epoch, state)
JOIN directory.pins AS pin USING (subject_key)
WHERE told.state <> 'retired' AND pin.epoch = told.epoch AND (pin.jurisdiction, pin.cell) <> ($4, $5)
