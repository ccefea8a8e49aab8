-- Whether a commit of this transaction waits for standbys: at which level, for how many, how many of those that count
-- do stream, and how many have flushed the log up to a position ($1; none: up to where this server has).
SELECT
    current_setting('synchronous_commit') AS level,
    setting.names,
    coalesce(substring(setting.names FROM '^\s*(?:[[:alpha:]]+\s)?\s*([0-9]+)\s*\(')::int, 1) AS needed,
    count(standby.pid) AS streaming,
    count(standby.pid) FILTER (WHERE standby.flush_lsn >= coalesce($1::text::pg_lsn, setting.written)) AS confirmed,
    setting.written::text AS written,
    pg_has_role('pg_read_all_stats', 'usage') AS visible
FROM (
    SELECT
        current_setting('synchronous_standby_names') AS names,
        CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn() END AS written
) AS setting
LEFT JOIN pg_stat_replication AS standby ON standby.state = 'streaming' AND standby.sync_state IN ('sync', 'quorum')
GROUP BY setting.names, setting.written
