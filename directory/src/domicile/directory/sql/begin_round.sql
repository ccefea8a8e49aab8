-- Make sure that a jurisdiction has a row to lock.
INSERT INTO directory.rounds (jurisdiction, cells)
VALUES ($1, '{}')
ON CONFLICT (jurisdiction) DO NOTHING
