-- The generation that a subject's keys are written with. Called under its lock.
UPDATE keys.subjects SET generation = $2 WHERE subject = $1
