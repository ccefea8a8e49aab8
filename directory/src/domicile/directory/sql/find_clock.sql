-- Where the log of a replica stands, and whether it may have lost something. It asks for nothing that a server in
-- recovery refuses.
SELECT generation, sequence, reconciling_since IS NOT NULL AS reconciling
FROM directory.clock
