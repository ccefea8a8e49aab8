-- Every pin in the order of keys, as text.
SELECT encode(subject_key, 'hex'), jurisdiction, cell, epoch, state
FROM directory.pins
ORDER BY subject_key
