-- Tells one life of a server from the next. A restored store is always another one.
SELECT pg_postmaster_start_time()::text || ' ' || system_identifier FROM pg_control_system()
