-- Whether the database answers, and holds our schema.
SELECT count(*) FROM directory.topology
