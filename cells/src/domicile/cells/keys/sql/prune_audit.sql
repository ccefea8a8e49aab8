-- Forget some entries that are older than so many days, the oldest first; how many. Two processes take turns.
WITH old AS MATERIALIZED (
    SELECT ctid FROM keys.audit WHERE time < clock_timestamp() - make_interval(days => $1)
    ORDER BY time LIMIT $2 FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM keys.audit USING old WHERE keys.audit.ctid = old.ctid RETURNING 1
)
SELECT count(*) FROM gone
