-- Where the log stands, in a generation of this history.
SELECT generation, sequence, trimmed, history = directory.history() AS current
FROM directory.clock
