-- name: schema_lock
-- One schema change at a time. Asked for again and again, never waited for: who waits in a statement holds a
-- snapshot, and an index that is built concurrently waits for every older one.
SELECT pg_try_advisory_lock(hashtext('domicile.schema'))

-- name: schema_unlock
SELECT pg_advisory_unlock(hashtext('domicile.schema'))

-- name: has_system
-- Whether there is a system schema at all, and one that keeps its revisions.
SELECT to_regclass('domicile.cell') IS NOT NULL AS cell, to_regclass('domicile.revisions') IS NOT NULL AS revisions,
       to_regclass('domicile.reference_columns') IS NOT NULL AS lists

-- name: cell
-- Which cell this database says that it is.
SELECT cell, jurisdiction FROM domicile.cell

-- name: applied_columns
-- What each column of each record table is; as JSON, since members came later.
SELECT c.table_name, to_jsonb(c) AS column FROM domicile.columns c ORDER BY c.table_name, c.column_name

-- name: reference_columns
-- What each column of one reference table ($1), or of all of them (NULL), is.
SELECT table_name, column_name, category, sql_type, nullable, "default", key_place
FROM domicile.reference_columns WHERE table_name = $1 OR $1 IS NULL

-- name: note_load
-- Keep that a reference table ($1) has rows with digest $2, so many ($3), by whom ($4), as a new version.
INSERT INTO domicile.reference_loads AS l (table_name, digest, rows, loaded_by, version, content)
VALUES ($1, $2, $3, $4, (extract(epoch FROM clock_timestamp()) * 1000)::bigint, domicile.reference_content($1))
ON CONFLICT (table_name) DO UPDATE
SET digest = excluded.digest, rows = excluded.rows, loaded_by = excluded.loaded_by, loaded_at = clock_timestamp(),
    version = greatest(l.version + 1, excluded.version), content = excluded.content, origin = NULL

-- name: reference_source
-- The cell that writes a reference table ($1), where it is another than this one.
SELECT s.cell FROM domicile.reference_sources s JOIN domicile.cell c ON c.cell <> s.cell WHERE s.table_name = $1

-- name: applied_tables
-- How long (in seconds) rows of the record tables are kept that are not kept for ever.
SELECT table_name, keep_seconds FROM domicile.retention

-- name: applied_indexes
-- The key columns of each index of each table that rows may lie in, and whether it can be used.
SELECT t.relname AS table_name, i.relname AS index_name, x.indisvalid AS valid,
       ARRAY(SELECT a.attname::text FROM unnest(x.indkey) WITH ORDINALITY AS k (number, place)
             JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.number ORDER BY k.place) AS columns
FROM pg_index x
JOIN pg_class t ON t.oid = x.indrelid
JOIN pg_class i ON i.oid = x.indexrelid
WHERE t.relnamespace = 'public'::regnamespace

-- name: stored_columns
-- Each column that is there, whatever was recorded.
SELECT t.relname AS table_name, a.attname AS column_name
FROM pg_class t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE t.relnamespace = 'public'::regnamespace AND t.relkind IN ('r', 'p')

-- name: read_across
-- The tables that the role for looks across subjects may read.
SELECT tablename::text AS table_name FROM pg_policies WHERE schemaname = 'public' AND policyname = 'domicile_across'

-- name: last_revision
-- The schema that was applied last.
SELECT id, system, system_digest FROM domicile.revisions ORDER BY id DESC LIMIT 1

-- name: add_revision
-- Keep that $1 applied: system schema $2 with digest $3, classes with digest $4, by these statements ($5).
INSERT INTO domicile.revisions (applied_by, system, system_digest, digest, statements)
VALUES ($1, $2, $3, $4, $5) RETURNING id

-- name: revisions
-- Every schema that was applied, the last one first.
SELECT id, applied_at, applied_by, system, digest, cardinality(statements) AS statements
FROM domicile.revisions ORDER BY id DESC

-- name: loose_tables
-- What a session that is not the operator's can reach and no lock holds: which relation, and what it lacks.
WITH reachable AS (
    SELECT c.oid, c.relname, c.relkind, c.relrowsecurity, c.relowner,
           -- belongs to no subject: what is on record so, and not as a table of records, in the schema of both
           n.nspname = 'public' AND EXISTS (SELECT FROM domicile.reference_columns l WHERE l.table_name = c.relname)
               AND NOT EXISTS (SELECT FROM domicile.columns l WHERE l.table_name = c.relname) AS reference
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
      AND n.nspname NOT IN ('domicile', 'pg_catalog', 'information_schema', 'pg_toast')
      AND EXISTS (
          SELECT FROM unnest(ARRAY[
              'domicile_app', 'domicile_turner', 'domicile_abroad', 'domicile_gateway', 'domicile_cell', 'domicile_eraser'
          ]) AS role
          WHERE has_table_privilege(role, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
             OR has_any_column_privilege(role, c.oid, 'SELECT, INSERT, UPDATE, REFERENCES')
      )
), lacking AS (
    SELECT r.relname AS table_name, array_remove(ARRAY[
        CASE WHEN r.relkind NOT IN ('r', 'p') THEN 'being a table' END,
        CASE WHEN r.relowner <> 'domicile_owner'::regrole THEN 'the owner that nobody logs in as' END,
        CASE WHEN NOT EXISTS (  -- BEFORE, FOR EACH ROW, of INSERT, UPDATE and DELETE, without a condition
            SELECT FROM pg_trigger t
            WHERE t.tgrelid = r.oid AND t.tgfoid = 'domicile.check_row()'::regprocedure AND t.tgtype = 31
              AND t.tgenabled IN ('O', 'A') AND t.tgqual IS NULL AND t.tgattr = ''
        ) THEN 'the fence trigger' END,
        CASE WHEN NOT r.relrowsecurity THEN 'row security' END,
        CASE WHEN NOT EXISTS (
                   SELECT FROM pg_policy p
                   WHERE p.polrelid = r.oid AND p.polname = 'domicile_subject' AND p.polcmd = '*' AND p.polwithcheck IS NULL
                     AND pg_get_expr(p.polqual, r.oid) LIKE '(subject_key = ( SELECT decode(current_setting(''domicile.subject''%'
               )
               OR EXISTS (
                   SELECT FROM pg_policy p
                   WHERE p.polrelid = r.oid AND p.polname <> 'domicile_subject' AND p.polpermissive
                     AND p.polroles && ARRAY[
                         0::oid, 'domicile_app'::regrole::oid, 'domicile_abroad'::regrole::oid, 'domicile_gateway'::regrole::oid,
                         'domicile_eraser'::regrole::oid, 'domicile_turner'::regrole::oid
                     ]
               )
            THEN 'the rule of one subject alone' END,
        CASE WHEN NOT EXISTS (
            SELECT FROM pg_constraint k
            WHERE k.conrelid = r.oid AND k.contype = 'c' AND k.convalidated
              AND pg_get_expr(k.conbin, k.conrelid) =
                  (SELECT format('(jurisdiction = %L::text)', c.jurisdiction) FROM domicile.cell c)
        ) THEN 'the label' END,
        CASE WHEN has_table_privilege('domicile_turner', r.oid, 'TRUNCATE, REFERENCES, TRIGGER')  -- and so domicile_app
               OR has_table_privilege('domicile_cell', r.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
               OR has_table_privilege('domicile_gateway', r.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER')
               OR has_table_privilege('domicile_abroad', r.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER')
               OR has_table_privilege('domicile_eraser', r.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER')
               OR EXISTS (
                   SELECT FROM pg_attribute a
                   WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
                     AND has_column_privilege('domicile_abroad', r.oid, a.attnum, 'SELECT')
                     AND a.attname NOT IN ('id', 'subject_key')
                     AND NOT EXISTS (
                         SELECT FROM domicile.columns c
                         WHERE c.table_name = r.relname AND c.column_name = a.attname AND c.class = 'shareable'
                     )
               )
            THEN 'the rights of each role and no more' END
    ], NULL) AS lacks
    FROM reachable r WHERE NOT r.reference
    UNION ALL
    SELECT r.relname, array_remove(ARRAY[
        CASE WHEN r.relkind <> 'r' THEN 'being a table' END,
        CASE WHEN r.relowner <> 'domicile_owner'::regrole THEN 'the owner that nobody logs in as' END,
        CASE WHEN EXISTS (
                SELECT FROM pg_roles role
                WHERE role.rolcanlogin AND NOT role.rolsuper AND (
                    has_table_privilege(role.oid, r.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
                    OR has_any_column_privilege(role.oid, r.oid, 'INSERT, UPDATE, REFERENCES')
                )
             ) THEN 'the fence trigger, and can be written without it' END,
        CASE WHEN EXISTS (
                SELECT FROM unnest(ARRAY['domicile_abroad', 'domicile_gateway', 'domicile_cell']) AS role
                WHERE has_table_privilege(role, r.oid, 'SELECT') OR has_any_column_privilege(role, r.oid, 'SELECT')
             ) THEN 'the rights of each role and no more' END,
        -- a parent is read with the rows of its children, past their row security
        CASE WHEN EXISTS (SELECT FROM pg_inherits i WHERE r.oid IN (i.inhrelid, i.inhparent)) THEN 'rows of its own alone' END,
        CASE WHEN EXISTS (
                SELECT FROM pg_attribute a
                WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped AND NOT EXISTS (
                    SELECT FROM domicile.reference_columns l
                    WHERE l.table_name = r.relname AND l.column_name = a.attname
                      AND l.sql_type = format_type(a.atttypid, a.atttypmod)
                )
             ) THEN 'a class that says what each column is' END
    ], NULL)
    FROM reachable r WHERE r.reference
)
SELECT table_name, lacks FROM lacking WHERE lacks <> '{}' ORDER BY table_name

-- name: role_settings
-- What is set for our roles, in every database or (named) in this one.
SELECT r.rolname::text AS role, d.datname::text AS database,
       split_part(s.setting, '=', 1) AS name, substr(s.setting, strpos(s.setting, '=') + 1) AS value
FROM pg_db_role_setting g
JOIN pg_roles r ON r.oid = g.setrole
LEFT JOIN pg_database d ON d.oid = g.setdatabase
CROSS JOIN unnest(g.setconfig) AS s (setting)
WHERE r.rolname LIKE 'domicile\_%'
  AND (g.setdatabase = 0 OR d.datname = current_database())
ORDER BY 1, 2, 3
