-- Forget a pepper's tombstones, so many at a time ($2), and refuse its keys from now on; whether all have gone. Readers
-- load the map anew: a change log has no word for what is no longer there.
SELECT directory.forget_pepper($1::smallint, $2::bigint)
