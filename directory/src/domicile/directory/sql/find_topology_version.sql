-- Which topology is current, without its text.
SELECT revision, published
FROM directory.topology
