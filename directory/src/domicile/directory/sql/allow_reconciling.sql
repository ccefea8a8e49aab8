-- For this transaction: it brings back what is lost.
SELECT set_config('directory.reconciling', 'on', true)
