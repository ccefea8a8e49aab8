-- Whether this database can be asked what is not in it: not while it may have lost something.
SELECT reconciling_since IS NULL AND history = directory.history()
FROM directory.clock
