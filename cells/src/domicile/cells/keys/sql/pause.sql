-- No subject of the cell is turned from now on.
UPDATE keys.rotations SET running = false WHERE cell = $1
