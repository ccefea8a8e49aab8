-- A rotation is over when no key is left that was made before it began, nor the cell's index secret.
DELETE FROM keys.rotations r WHERE r.cell = $1
    AND NOT EXISTS (SELECT FROM keys.data_keys k WHERE k.cell = r.cell AND k.created < r.started)
    AND NOT EXISTS (SELECT FROM keys.index_keys k WHERE k.cell = r.cell AND k.created < r.started)
