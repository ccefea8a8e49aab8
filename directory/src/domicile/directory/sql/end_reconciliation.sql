-- Claims are taken again.
UPDATE directory.clock SET reconciling_since = NULL
