-- The number of the schema that this database has; 0 for one from before they had numbers, or none.
SELECT coalesce(substring(obj_description(to_regnamespace('directory'), 'pg_namespace') FROM '^schema ([0-9]+)$'), '0')::int
