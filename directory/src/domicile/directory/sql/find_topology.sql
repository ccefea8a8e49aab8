-- The current topology.
SELECT revision, signed
FROM directory.topology
