-- Forget a pepper's tombstones, and refuse its keys from now on. Readers load the map anew: a change log has no
-- word for what is no longer there.
SELECT directory.forget_pepper($1::smallint)
