-- The system schema of a cell, applied by an operator as superuser; running it again changes nothing.
-- SQLSTATEs of our own: DM001 fence, DM002 jurisdiction, DM003 identity of a row, DM004 durability, DM005 grant,
-- DM006 another key of the same subject (which one is the DETAIL), DM007 an idempotency key of another request,
-- DM008 a subject that is about to move.

DO $roles$
DECLARE
    name text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'domicile_owner') THEN
        CREATE ROLE domicile_owner NOLOGIN;
    END IF;
    FOREACH name IN ARRAY ARRAY['domicile_app', 'domicile_cell', 'domicile_gateway', 'domicile_abroad'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', name);
        END IF;
        EXECUTE format('ALTER ROLE %I SET synchronous_commit = %L', name, 'on');
        -- of the role, since a pooler in transaction mode passes no settings of a session on
        EXECUTE format('ALTER ROLE %I SET search_path = public', name);
        EXECUTE format('ALTER ROLE %I SET lock_timeout = %L', name, '5s');
        EXECUTE format('ALTER ROLE %I SET idle_in_transaction_session_timeout = %L', name, '30s');
    END LOOP;
    EXECUTE format('REVOKE CREATE, TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
    -- large objects are bytes at rest that no fence and no row security reaches
    FOR name IN SELECT p.oid::regprocedure FROM pg_proc p
        WHERE p.pronamespace = 'pg_catalog'::regnamespace
          AND (p.proname LIKE 'lo\_%' OR p.proname IN ('loread', 'lowrite'))
    LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', name);
    END LOOP;
END
$roles$;

REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO domicile_owner;
CREATE SCHEMA IF NOT EXISTS domicile AUTHORIZATION domicile_owner;
SET LOCAL ROLE domicile_owner;

-- Which cell this database is. A restore changes the incarnation, and with it every grant made before.
CREATE TABLE IF NOT EXISTS domicile.cell (
    only_row     boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    cell         text NOT NULL,
    jurisdiction text NOT NULL,
    incarnation  uuid NOT NULL DEFAULT gen_random_uuid()
);

-- Whether this cell may write for a subject, and at which epoch. Rows are never deleted: retired ones stay.
CREATE TABLE IF NOT EXISTS domicile.fences (
    subject_key bytea PRIMARY KEY CHECK (octet_length(subject_key) = 17),
    internal_id uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    epoch       bigint NOT NULL CHECK (epoch >= 1),
    state       text NOT NULL CHECK (state IN ('open', 'closed', 'retired')),
    alias_keys  jsonb NOT NULL DEFAULT '{}'
);

-- The key by an earlier pepper, for as long as somebody may still name the subject by it.
ALTER TABLE domicile.fences ADD COLUMN IF NOT EXISTS previous_key bytea UNIQUE CHECK (octet_length(previous_key) = 17);

-- What each column of each record table holds, so that gateways need no application code.
CREATE TABLE IF NOT EXISTS domicile.columns (
    table_name  text NOT NULL,
    column_name text NOT NULL,
    class       text NOT NULL CHECK (class IN ('personal', 'shareable')),
    category    text NOT NULL,
    sealed      boolean NOT NULL,
    find        text CHECK (find IN ('subject', 'cell')),
    sql_type    text NOT NULL,
    nullable    boolean NOT NULL,
    PRIMARY KEY (table_name, column_name)
);

-- ``kind``: the type of the field in its class; ``default``: the SQL of what older rows hold. Both came later.
ALTER TABLE domicile.columns ADD COLUMN IF NOT EXISTS kind text;
ALTER TABLE domicile.columns ADD COLUMN IF NOT EXISTS "default" text;

-- How long the rows of a table are kept after they were first put; tables without a row here keep theirs.
CREATE TABLE IF NOT EXISTS domicile.retention (
    table_name   text PRIMARY KEY,
    keep_seconds bigint NOT NULL CHECK (keep_seconds > 0)
);

-- Each schema that was applied: by whom (the operator's certificate), which, and by what statements.
CREATE TABLE IF NOT EXISTS domicile.revisions (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    applied_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    applied_by    text NOT NULL,
    system        integer NOT NULL,
    system_digest text NOT NULL,
    digest        text NOT NULL,
    statements    text[] NOT NULL
);

-- Who read across subjects, and why. No subject is named.
CREATE TABLE IF NOT EXISTS domicile.cell_sessions (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    time    timestamptz NOT NULL DEFAULT clock_timestamp(),
    purpose text NOT NULL
);

-- What crossed this cell's border, or tried to. No subject is named.
CREATE TABLE IF NOT EXISTS domicile.border_events (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    time              timestamptz NOT NULL DEFAULT clock_timestamp(),
    from_jurisdiction text NOT NULL,
    role              text NOT NULL,
    kind              text NOT NULL,
    verdict           text NOT NULL
);

-- Subjects (by internal id) whose fence somebody is about to close. Writers look at it before they take the fence: they
-- overlap, and whoever wants it for himself would else wait until none of them writes. It counts until a time, so that
-- a mover that died holds up nobody for good.
CREATE TABLE IF NOT EXISTS domicile.intents (
    subject uuid PRIMARY KEY,
    epoch   bigint NOT NULL,
    until   timestamptz NOT NULL
);

-- Hold a subject's fence open until the transaction ends, or refuse. FOR SHARE needs UPDATE on the fence,
-- which the application lacks; VOLATILE, so that the lock sees what was committed while it waited.
CREATE OR REPLACE FUNCTION domicile.hold_fence(subject bytea, wanted bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    held domicile.fences;
BEGIN
    FOR attempt IN 1..3 LOOP  -- it may be renamed to and fro between the two looks
        SELECT f.* INTO held FROM domicile.fences f WHERE f.subject_key = subject FOR SHARE;
        EXIT WHEN FOUND;
        SELECT f.* INTO held FROM domicile.fences f WHERE f.previous_key = subject;
        IF FOUND THEN
            RAISE EXCEPTION 'the subject has another key by now'
                USING ERRCODE = 'DM006', DETAIL = encode(held.subject_key, 'hex');
        END IF;
    END LOOP;
    IF held.state IS DISTINCT FROM 'open' OR held.epoch IS DISTINCT FROM wanted THEN
        RAISE EXCEPTION 'the fence is not open at this epoch' USING ERRCODE = 'DM001';
    END IF;
    PERFORM FROM domicile.intents i WHERE i.subject = held.internal_id AND i.until > clock_timestamp();
    IF FOUND THEN
        RAISE EXCEPTION 'the subject is about to move' USING ERRCODE = 'DM008';
    END IF;
END
$$;

-- A subject's fence, by its key or the one before, as this statement's snapshot has it; no row where there is none.
CREATE OR REPLACE FUNCTION domicile.read_fence(subject bytea)
RETURNS TABLE (subject_key bytea, internal_id uuid, epoch bigint, state text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT f.subject_key, f.internal_id, f.epoch, f.state FROM domicile.fences f
    WHERE f.subject_key = subject OR f.previous_key = subject
$$;

-- The same, and what the caller sees from here to the end of its transaction is this subject's alone. A statement reads
-- its rows by the key that is answered, so that fence and rows are of one snapshot, and by the name they have in it.
CREATE OR REPLACE FUNCTION domicile.enter(subject bytea)
RETURNS TABLE (subject_key bytea, epoch bigint, state text)
LANGUAGE plpgsql STABLE ROWS 1 SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT f.subject_key, f.epoch, f.state INTO enter.subject_key, epoch, state
    FROM domicile.fences f WHERE f.subject_key = subject;
    IF NOT FOUND THEN
        SELECT f.subject_key, f.epoch, f.state INTO enter.subject_key, epoch, state
        FROM domicile.fences f WHERE f.previous_key = subject;
        IF NOT FOUND THEN
            RETURN;
        END IF;
    END IF;
    PERFORM set_config('domicile.subject', encode(enter.subject_key, 'hex'), true);
    RETURN NEXT;
END
$$;

-- What was answered under an idempotency key. Keys and requests are hashes; subject is an internal id.
CREATE TABLE IF NOT EXISTS domicile.answers (
    subject  uuid NOT NULL,
    key      bytea NOT NULL CHECK (octet_length(key) = 32),
    request  bytea NOT NULL CHECK (octet_length(request) = 16),
    answer   bigint[],
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (subject, key)
);

-- The answer under an idempotency key of a subject that is held open; NULL where the request is new and is to be done.
-- It writes either way: who commits gets an answer that is as durable as this commit, also where the first one's was not.
CREATE OR REPLACE FUNCTION domicile.recall(subject bytea, wanted bigint, given bytea, digest bytea) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kept domicile.answers;
BEGIN
    IF current_setting('synchronous_commit') NOT IN ('on', 'remote_apply') THEN
        RAISE EXCEPTION 'synchronous_commit is below on' USING ERRCODE = 'DM004';
    END IF;
    PERFORM domicile.hold_fence(subject, wanted);
    INSERT INTO domicile.answers AS a (subject, key, request)
        SELECT f.internal_id, given, digest FROM domicile.fences f WHERE f.subject_key = recall.subject
    ON CONFLICT ON CONSTRAINT answers_pkey DO UPDATE SET asked_at = clock_timestamp()
    RETURNING a.* INTO kept;
    IF kept.request <> digest THEN
        RAISE EXCEPTION 'another request was made under this idempotency key' USING ERRCODE = 'DM007';
    END IF;
    RETURN kept.answer;
END
$$;

-- Keep what is answered under an idempotency key; in the transaction that recalled it.
CREATE OR REPLACE FUNCTION domicile.remember(subject bytea, given bytea, said bigint[]) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE domicile.answers a SET answer = said FROM domicile.fences f
    WHERE f.subject_key = remember.subject AND a.subject = f.internal_id AND a.key = given AND a.answer IS NULL
$$;

-- Open a fence on a grant: none yet, or one at a lower epoch. An open one at the same epoch is answered as it is.
CREATE OR REPLACE FUNCTION domicile.open_fence(
    subject bytea, granted_cell text, granted_jurisdiction text, granted_incarnation uuid,
    granted_epoch bigint, aliases jsonb
) RETURNS TABLE (subject_key bytea, internal_id uuid, epoch bigint, state text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM FROM domicile.cell c
    WHERE (c.cell, c.jurisdiction, c.incarnation) = (granted_cell, granted_jurisdiction, granted_incarnation)
    FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the grant is for another cell or incarnation' USING ERRCODE = 'DM005';
    END IF;
    subject := coalesce((SELECT f.subject_key FROM domicile.fences f WHERE f.previous_key = subject), subject);
    RETURN QUERY
        SELECT f.subject_key, f.internal_id, f.epoch, f.state FROM domicile.fences f
        WHERE f.subject_key = subject AND f.state = 'open' AND f.epoch = granted_epoch AND f.alias_keys @> aliases;
    IF FOUND THEN
        RETURN;
    END IF;
    RETURN QUERY
        INSERT INTO domicile.fences AS f (subject_key, epoch, state, alias_keys)
        VALUES (subject, granted_epoch, 'open', aliases)
        ON CONFLICT ON CONSTRAINT fences_pkey DO UPDATE
            SET epoch = excluded.epoch, state = 'open', alias_keys = f.alias_keys || excluded.alias_keys
            WHERE excluded.epoch > f.epoch OR (excluded.epoch = f.epoch AND f.state = 'open')
        RETURNING f.subject_key, f.internal_id, f.epoch, f.state;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the fence was closed at this epoch, or is at a higher one' USING ERRCODE = 'DM001';
    END IF;
END
$$;

-- Say that an open fence is about to be closed, for so many seconds at most; committed before it is tried.
CREATE OR REPLACE FUNCTION domicile.intend(subject bytea, wanted bigint, seconds double precision) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO domicile.intents AS i (subject, epoch, until)
        SELECT f.internal_id, f.epoch, clock_timestamp() + make_interval(secs => seconds) FROM domicile.fences f
        WHERE f.subject_key = intend.subject AND f.epoch = wanted AND f.state = 'open'
    ON CONFLICT ON CONSTRAINT intents_pkey DO UPDATE SET epoch = excluded.epoch, until = excluded.until;
    RETURN FOUND;
END
$$;

-- Close a fence that is open at an epoch, once every writer that holds it has ended, and forget the intent.
CREATE OR REPLACE FUNCTION domicile.close_fence(subject bytea, wanted bigint)
RETURNS TABLE (subject_key bytea, internal_id uuid, epoch bigint, state text)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH closed AS (
        UPDATE domicile.fences AS f SET state = 'closed'
        WHERE f.subject_key = subject AND f.epoch = wanted AND f.state = 'open'
        RETURNING f.subject_key, f.internal_id, f.epoch, f.state
    ), forgotten AS (DELETE FROM domicile.intents i USING closed c WHERE i.subject = c.internal_id)
    SELECT * FROM closed
$$;

-- Forget an intent that did not come to be.
CREATE OR REPLACE FUNCTION domicile.give_up(subject bytea) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM domicile.intents i USING domicile.fences f WHERE f.subject_key = give_up.subject AND i.subject = f.internal_id
$$;

-- On each record table, before each row: the third lock, which needs neither the SDK nor the guard.
-- A deletion carries no epoch of its own; the transaction names it in domicile.epoch.
CREATE OR REPLACE FUNCTION domicile.check_row() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    label text;
BEGIN
    IF current_setting('synchronous_commit') NOT IN ('on', 'remote_apply') THEN
        RAISE EXCEPTION 'synchronous_commit is below on' USING ERRCODE = 'DM004';
    END IF;
    IF TG_OP = 'DELETE' THEN
        PERFORM domicile.hold_fence(OLD.subject_key, nullif(current_setting('domicile.epoch', true), '')::bigint);
        RETURN OLD;
    END IF;
    IF TG_OP = 'UPDATE' AND session_user = 'domicile_gateway' THEN
        -- only rekey_fence below: its role has no right of its own on a record table, and nobody can SET session_user
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' AND (NEW.jurisdiction, NEW.subject_key, NEW.principal_key, NEW.id)
        IS DISTINCT FROM (OLD.jurisdiction, OLD.subject_key, OLD.principal_key, OLD.id) THEN
        RAISE EXCEPTION 'a row keeps its jurisdiction, subject, principal and key' USING ERRCODE = 'DM003';
    END IF;
    -- the common case in one look: the label, and the fence open at the row's epoch, which is held from here on
    SELECT c.jurisdiction INTO label FROM domicile.cell c CROSS JOIN domicile.fences f
    WHERE f.subject_key = NEW.subject_key AND f.epoch = NEW.epoch AND f.state = 'open'
      AND NOT EXISTS (SELECT FROM domicile.intents i WHERE i.subject = f.internal_id AND i.until > clock_timestamp())
    FOR SHARE OF f;
    IF NOT FOUND THEN
        PERFORM domicile.hold_fence(NEW.subject_key, NEW.epoch);
        SELECT c.jurisdiction INTO label FROM domicile.cell c;
    END IF;
    IF label IS DISTINCT FROM NEW.jurisdiction THEN
        RAISE EXCEPTION 'the row is labelled with another jurisdiction' USING ERRCODE = 'DM002';
    END IF;
    RETURN NEW;
END
$$;

-- Name a subject by its key under another pepper: its fence and all of its rows at once, or nothing. The epoch, the
-- internal id and the rows' own epochs stay, so that nobody who has the subject open is refused. What was named by the
-- key before is found by it until forget_previous. Repeating it is harmless; with its own key only aliases change.
-- aliases: the new key of an alias by the one before; one that is not kept beside the fence (any more) is let be.
CREATE OR REPLACE FUNCTION domicile.rekey_fence(subject bytea, successor bytea, aliases jsonb)
RETURNS TABLE (subject_key bytea, internal_id uuid, epoch bigint, state text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    held  domicile.fences;
    named jsonb;
    place text;
BEGIN
    SELECT f.* INTO held FROM domicile.fences f WHERE f.subject_key = subject FOR UPDATE;
    SELECT coalesce(jsonb_object_agg(kind, coalesce(aliases ->> kept, kept)), '{}') INTO named
    FROM jsonb_each_text(held.alias_keys) AS beside (kind, kept);
    IF held.subject_key IS NOT NULL AND subject = successor THEN
        UPDATE domicile.fences AS f SET alias_keys = named WHERE f.subject_key = subject;
    ELSIF held.subject_key IS NOT NULL THEN
        UPDATE domicile.fences AS f
        SET subject_key = successor, previous_key = subject, alias_keys = named
        WHERE f.subject_key = subject;
        FOR place IN SELECT DISTINCT c.table_name FROM domicile.columns c ORDER BY 1 LOOP
            EXECUTE format(
                'UPDATE public.%I SET subject_key = $2,
                     principal_key = CASE principal_key WHEN $1 THEN $2 ELSE principal_key END
                 WHERE subject_key = $1', place) USING subject, successor;
        END LOOP;
    END IF;
    RETURN QUERY
        SELECT f.subject_key, f.internal_id, f.epoch, f.state FROM domicile.fences f
        WHERE f.subject_key = successor AND subject IN (f.subject_key, f.previous_key);
END
$$;

-- Delete rows whose time is over, at most this many of each table; how many those were. Rows of a subject that is not
-- open here, or is about to move, are let be: they are swept where it is at home. Others may be sweeping, too.
CREATE OR REPLACE FUNCTION domicile.sweep(most integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    place text;
    over  record;
    swept bigint := 0;
BEGIN
    FOR place IN SELECT r.table_name FROM domicile.retention r ORDER BY 1 LOOP
        FOR over IN EXECUTE format(
            'SELECT t.subject_key, t.id, f.epoch FROM public.%I t JOIN domicile.fences f USING (subject_key)
             WHERE t.expires_at <= clock_timestamp() AND f.state = ''open'' AND NOT EXISTS (
                 SELECT FROM domicile.intents i WHERE i.subject = f.internal_id AND i.until > clock_timestamp())
             ORDER BY t.expires_at LIMIT $1 FOR UPDATE OF t SKIP LOCKED', place) USING most
        LOOP
            PERFORM set_config('domicile.epoch', over.epoch::text, true);
            BEGIN
                EXECUTE format('DELETE FROM public.%I WHERE subject_key = $1 AND id = $2', place)
                    USING over.subject_key, over.id;
                swept := swept + 1;
            EXCEPTION WHEN SQLSTATE 'DM001' OR SQLSTATE 'DM006' OR SQLSTATE 'DM008' THEN
                NULL;  -- the subject began to move, or was renamed, since the look at its fence
            END;
        END LOOP;
    END LOOP;
    RETURN swept;
END
$$;

-- Subjects are no longer found by the keys that they had before, of one pepper's version; how many those were.
CREATE OR REPLACE FUNCTION domicile.forget_previous(version integer) RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH forgotten AS (
        UPDATE domicile.fences SET previous_key = NULL WHERE get_byte(previous_key, 0) = version RETURNING 1
    )
    SELECT count(*) FROM forgotten
$$;

REVOKE ALL ON ALL TABLES IN SCHEMA domicile FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA domicile FROM PUBLIC;
GRANT USAGE ON SCHEMA domicile TO domicile_app, domicile_cell, domicile_gateway, domicile_abroad;
GRANT INSERT (purpose) ON domicile.cell_sessions TO domicile_cell;
GRANT EXECUTE ON FUNCTION domicile.read_fence(bytea) TO domicile_cell;
GRANT EXECUTE ON FUNCTION domicile.hold_fence(bytea, bigint) TO domicile_app;
GRANT EXECUTE ON FUNCTION domicile.read_fence(bytea) TO domicile_app, domicile_abroad;
GRANT EXECUTE ON FUNCTION domicile.enter(bytea) TO domicile_app;
GRANT EXECUTE ON FUNCTION domicile.recall(bytea, bigint, bytea, bytea) TO domicile_app;
GRANT EXECUTE ON FUNCTION domicile.remember(bytea, bytea, bigint[]) TO domicile_app;
GRANT EXECUTE ON FUNCTION domicile.open_fence(bytea, text, text, uuid, bigint, jsonb) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.intend(bytea, bigint, double precision) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.close_fence(bytea, bigint) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.give_up(bytea) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.rekey_fence(bytea, bytea, jsonb) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.forget_previous(integer) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.sweep(integer) TO domicile_gateway;
GRANT SELECT ON domicile.cell, domicile.fences TO domicile_gateway;
GRANT SELECT ON domicile.columns TO domicile_abroad, domicile_gateway;
GRANT INSERT ON domicile.border_events TO domicile_gateway;

-- the number grows with each change of this file; `schema apply` takes no database back to a lower one
COMMENT ON SCHEMA domicile IS 'schema 2';
