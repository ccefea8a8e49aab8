-- A jurisdiction's counts, held until the transaction ends: its placements are made one after the other.
SELECT cells
FROM directory.rounds
WHERE jurisdiction = $1
FOR UPDATE
