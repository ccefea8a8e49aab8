-- Whoever waits for a lock is waited for too: not longer than those can wait.
SET LOCAL lock_timeout = '1s'
