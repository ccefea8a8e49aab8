-- For this transaction: nobody is told of it, so that it waits for no standby.
SELECT set_config('synchronous_commit', 'local', true)
