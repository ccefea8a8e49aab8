-- The system schema of a cell, applied by an operator as superuser; running it again changes nothing.
-- SQLSTATEs of our own: DM001 fence, DM002 jurisdiction, DM003 identity of a row, DM004 durability, DM005 grant,
-- DM006 another key of the same subject (which one is the DETAIL).

DO $roles$
DECLARE
    name text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'domicile_owner') THEN
        CREATE ROLE domicile_owner NOLOGIN;
    END IF;
    FOREACH name IN ARRAY ARRAY['domicile_app', 'domicile_gateway', 'domicile_abroad'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', name);
        END IF;
        EXECUTE format('ALTER ROLE %I SET synchronous_commit = %L', name, 'on');
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

-- What crossed this cell's border, or tried to. No subject is named.
CREATE TABLE IF NOT EXISTS domicile.border_events (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    time              timestamptz NOT NULL DEFAULT clock_timestamp(),
    from_jurisdiction text NOT NULL,
    role              text NOT NULL,
    kind              text NOT NULL,
    verdict           text NOT NULL
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
END
$$;

-- A subject's fence, by its key or the one before, as this statement's snapshot has it; no row where there is none.
DROP FUNCTION IF EXISTS domicile.read_fence(bytea);
CREATE FUNCTION domicile.read_fence(subject bytea)
RETURNS TABLE (subject_key bytea, internal_id uuid, epoch bigint, state text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT f.subject_key, f.internal_id, f.epoch, f.state FROM domicile.fences f
    WHERE f.subject_key = subject OR f.previous_key = subject
$$;

-- Open a fence on a grant: none yet, or one at a lower epoch. An open one at the same epoch is answered as it is.
DROP FUNCTION IF EXISTS domicile.open_fence(bytea, text, text, uuid, bigint, jsonb);
CREATE FUNCTION domicile.open_fence(
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

-- On each record table, before each row: the third lock, which needs neither the SDK nor the guard.
-- A deletion carries no epoch of its own; the transaction names it in domicile.epoch.
CREATE OR REPLACE FUNCTION domicile.check_row() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
    PERFORM FROM domicile.cell c WHERE c.jurisdiction = NEW.jurisdiction;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the row is labelled with another jurisdiction' USING ERRCODE = 'DM002';
    END IF;
    PERFORM domicile.hold_fence(NEW.subject_key, NEW.epoch);
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
GRANT USAGE ON SCHEMA domicile TO domicile_app, domicile_gateway, domicile_abroad;
GRANT EXECUTE ON FUNCTION domicile.hold_fence(bytea, bigint) TO domicile_app;
GRANT EXECUTE ON FUNCTION domicile.read_fence(bytea) TO domicile_app, domicile_abroad;
GRANT EXECUTE ON FUNCTION domicile.open_fence(bytea, text, text, uuid, bigint, jsonb) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.rekey_fence(bytea, bytea, jsonb) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.forget_previous(integer) TO domicile_gateway;
GRANT SELECT ON domicile.cell, domicile.fences TO domicile_gateway;
GRANT SELECT ON domicile.columns TO domicile_abroad;
GRANT INSERT ON domicile.border_events TO domicile_gateway;

-- the sample's tables as they were created and recorded under this schema
INSERT INTO domicile.cell (cell, jurisdiction) VALUES ('eu-1', 'eu');

CREATE TABLE public."notes" (
    jurisdiction text NOT NULL CHECK (jurisdiction = 'eu'),
    subject_key bytea NOT NULL,
    principal_key bytea NOT NULL,
    id uuid NOT NULL,
    epoch bigint NOT NULL,
    version bigint NOT NULL DEFAULT 1,
    "text" bytea NOT NULL,
    "topic" text NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (subject_key, id)
);
CREATE TRIGGER domicile_check BEFORE INSERT OR UPDATE OR DELETE ON public."notes"
    FOR EACH ROW EXECUTE FUNCTION domicile.check_row();
ALTER TABLE public."notes" ENABLE ROW LEVEL SECURITY;
CREATE POLICY domicile_subject ON public."notes" TO domicile_app, domicile_abroad
    USING (subject_key = (SELECT decode(current_setting('domicile.subject', true), 'hex')));
REVOKE ALL ON public."notes" FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON public."notes" TO domicile_app;
GRANT SELECT (id, subject_key, "topic") ON public."notes" TO domicile_abroad;

INSERT INTO domicile.columns VALUES ('notes', 'text', 'personal', 'user.content.private', true, NULL, 'bytea', false);
INSERT INTO domicile.columns VALUES ('notes', 'topic', 'shareable', 'user.content.topic', false, NULL, 'text', false);

CREATE TABLE public."profiles" (
    jurisdiction text NOT NULL CHECK (jurisdiction = 'eu'),
    subject_key bytea NOT NULL,
    principal_key bytea NOT NULL,
    id uuid NOT NULL,
    epoch bigint NOT NULL,
    version bigint NOT NULL DEFAULT 1,
    "user" bytea NOT NULL,
    "email" bytea NOT NULL,
    "password" bytea NOT NULL,
    "born" date,
    "plan" text NOT NULL,
    "email_index" bytea NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (subject_key, id)
);
CREATE INDEX ON public."profiles" (subject_key, "email_index");
CREATE TRIGGER domicile_check BEFORE INSERT OR UPDATE OR DELETE ON public."profiles"
    FOR EACH ROW EXECUTE FUNCTION domicile.check_row();
ALTER TABLE public."profiles" ENABLE ROW LEVEL SECURITY;
CREATE POLICY domicile_subject ON public."profiles" TO domicile_app, domicile_abroad
    USING (subject_key = (SELECT decode(current_setting('domicile.subject', true), 'hex')));
REVOKE ALL ON public."profiles" FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON public."profiles" TO domicile_app;
GRANT SELECT (id, subject_key, "plan") ON public."profiles" TO domicile_abroad;

INSERT INTO domicile.columns VALUES ('profiles', 'user', 'personal', 'user.unique_id', true, NULL, 'bytea', false);
INSERT INTO domicile.columns VALUES ('profiles', 'email', 'personal', 'user.contact.email', true, 'subject', 'bytea', false);
INSERT INTO domicile.columns VALUES ('profiles', 'password', 'personal', 'user.authorization.password', true, NULL, 'bytea', false);
INSERT INTO domicile.columns VALUES ('profiles', 'born', 'personal', 'user.demographic.date_of_birth', false, NULL, 'date', true);
INSERT INTO domicile.columns VALUES ('profiles', 'plan', 'shareable', 'user.account.plan', false, NULL, 'text', false);
