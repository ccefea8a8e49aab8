-- Begin the rotation of a cell's data keys, or let it go on.
INSERT INTO keys.rotations (cell) VALUES ($1) ON CONFLICT (cell) DO UPDATE SET running = true
