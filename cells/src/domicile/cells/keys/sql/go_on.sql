-- Begin the rotation of a cell's keys, or let it go on. It is later than every key that there is, whatever the clock says.
INSERT INTO keys.rotations (cell, started)
SELECT $1, greatest(
    clock_timestamp(),
    (SELECT max(created) + interval '1 microsecond' FROM keys.data_keys WHERE cell = $1),
    (SELECT max(created) + interval '1 microsecond' FROM keys.index_keys WHERE cell = $1)
)
ON CONFLICT (cell) DO UPDATE SET running = true
