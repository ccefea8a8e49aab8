-- The aliases that a cell keeps beside its fences, of subjects whose home it is; who holds one already keeps it. Those
-- of a subject that was erased are anybody's, and nobody could find one by a pepper that was forgotten.
INSERT INTO directory.aliases (kind, alias_key, subject_key)
SELECT kind, alias_key, subject_key
FROM unnest($1::text[], $2::bytea[], $3::bytea[]) AS told (kind, alias_key, subject_key)
JOIN directory.pins AS pin USING (subject_key)
WHERE pin.jurisdiction = $4 AND pin.cell = $5 AND pin.state <> 'erased'
    AND get_byte(alias_key, 0) NOT IN (SELECT version FROM directory.peppers WHERE forgotten IS NOT NULL)
ON CONFLICT (kind, alias_key) DO NOTHING
