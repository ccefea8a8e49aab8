-- Of a cell's fences that are not retired ($1 keys, $2 epochs, $3 states; $4 its jurisdiction, $5 its name): how many
-- are overruled by a pin elsewhere at a higher epoch, or overrule one that was brought back in this reconciliation.
SELECT count(*)
FROM unnest($1::bytea[], $2::bigint[], $3::text[]) AS told (subject_key, epoch, state)
JOIN directory.pins AS pin USING (subject_key)
WHERE told.state <> 'retired' AND pin.state = 'active' AND (pin.jurisdiction, pin.cell) <> ($4, $5) AND (
    (pin.epoch > told.epoch AND told.state = 'open')
    OR (pin.epoch < told.epoch AND pin.claimed >= (SELECT reconciling_since FROM directory.clock))
)
