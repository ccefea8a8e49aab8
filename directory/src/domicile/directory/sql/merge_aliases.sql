-- The aliases that a cell keeps beside its fences, of subjects whose home it is; who holds one already keeps it.
INSERT INTO directory.aliases (kind, alias_key, subject_key)
SELECT kind, alias_key, subject_key
FROM unnest($1::text[], $2::bytea[], $3::bytea[]) AS told (kind, alias_key, subject_key)
JOIN directory.pins AS pin USING (subject_key)
WHERE pin.jurisdiction = $4 AND pin.cell = $5
ON CONFLICT (kind, alias_key) DO NOTHING
