-- The system schema of a cell, applied by an operator as superuser; running it again changes nothing.
-- SQLSTATEs of our own: DM001 fence, DM002 jurisdiction, DM003 identity of a row, DM004 durability, DM005 grant,
-- DM006 another key of the same subject (which one is the DETAIL), DM007 an idempotency key of another request,
-- DM008 a subject that is about to move, DM009 keys that were replaced, DM010 a line of the ledger, DM011 rows of a
-- reference table that may not be taken, DM012 a row about a shredded principal.

DO $roles$
DECLARE
    name text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'domicile_owner') THEN
        CREATE ROLE domicile_owner NOLOGIN;
    END IF;
    FOREACH name IN ARRAY ARRAY['domicile_app', 'domicile_turner', 'domicile_cell', 'domicile_gateway', 'domicile_abroad',
                             'domicile_eraser', 'domicile_ledger', 'domicile_border'] LOOP
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
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'domicile_fencer') THEN
        CREATE ROLE domicile_fencer NOLOGIN;
    END IF;
    GRANT domicile_cell TO domicile_border;  -- which looks across subjects as that role does, and no further
    GRANT domicile_app TO domicile_turner;  -- re-seals rows as the application would, and keeps their versions
    GRANT domicile_app, domicile_turner TO domicile_fencer;  -- whose sessions it may end: nobody else's
END
$roles$;

REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO domicile_owner;
CREATE SCHEMA IF NOT EXISTS domicile AUTHORIZATION domicile_owner;
CREATE SCHEMA IF NOT EXISTS releases AUTHORIZATION domicile_owner;  -- what other jurisdictions released to this one
DROP FUNCTION IF EXISTS domicile.end_writers(bytea, integer, double precision);  -- the fencer's, made anew below
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

-- Keys of the subject from before this generation write nothing any more: what they sealed would not open for long.
ALTER TABLE domicile.fences ADD COLUMN IF NOT EXISTS oldest_keys integer NOT NULL DEFAULT 1;

-- Whether rows about some principal of the subject are refused, since it was shredded: which one, erasures tells.
ALTER TABLE domicile.fences ADD COLUMN IF NOT EXISTS shredded boolean NOT NULL DEFAULT false;

-- Subjects (by internal id) whose rows may lie under keys of a newer generation than their fence asks for.
CREATE TABLE IF NOT EXISTS domicile.turns (
    subject     uuid PRIMARY KEY,
    newest_keys integer NOT NULL
);

-- Blind indexes across subjects are under a secret of the cell: rows may lie under one of generation newest_index, and
-- those before oldest_index write nothing any more. Of each subject: the oldest that may write for it, and the one that
-- all of its rows are known to be under.
ALTER TABLE domicile.cell ADD COLUMN IF NOT EXISTS newest_index integer NOT NULL DEFAULT 1;
ALTER TABLE domicile.cell ADD COLUMN IF NOT EXISTS oldest_index integer NOT NULL DEFAULT 1;
ALTER TABLE domicile.fences ADD COLUMN IF NOT EXISTS oldest_index integer NOT NULL DEFAULT 1;
ALTER TABLE domicile.fences ADD COLUMN IF NOT EXISTS turned_index integer NOT NULL DEFAULT 1;

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

-- ``kind``: the type of the field in its class; ``default``: the SQL of what older rows hold. ``optional``: whether the
-- field may be None, and ``given``, as JSON, what a record has that is made without it: a constant of the class.
-- ``rules``, as JSON: its members, its constraints or its JSON Schema. All of them came later.
ALTER TABLE domicile.columns ADD COLUMN IF NOT EXISTS kind text;
ALTER TABLE domicile.columns ADD COLUMN IF NOT EXISTS "default" text;
ALTER TABLE domicile.columns ADD COLUMN IF NOT EXISTS optional boolean;
ALTER TABLE domicile.columns ADD COLUMN IF NOT EXISTS given text;
ALTER TABLE domicile.columns ADD COLUMN IF NOT EXISTS rules text;

-- ``principal``: which field says whom a row is about; it lies in principal_key, whatever it is called.
DO $classes$ BEGIN
    ALTER TABLE domicile.columns DROP CONSTRAINT IF EXISTS columns_class_check;
    ALTER TABLE domicile.columns ADD CONSTRAINT columns_class_check CHECK (class IN ('personal', 'shareable', 'principal'));
END $classes$;

-- How long the rows of a table are kept after they were first put; tables without a row here keep theirs.
CREATE TABLE IF NOT EXISTS domicile.retention (
    table_name   text PRIMARY KEY,
    keep_seconds bigint NOT NULL CHECK (keep_seconds > 0)
);

-- What each column of each table is that belongs to no subject. No role but the owner writes these tables.
CREATE TABLE IF NOT EXISTS domicile.reference_columns (
    table_name  text NOT NULL,
    column_name text NOT NULL,
    category    text NOT NULL CHECK (category ~ '^system(\.|$)'),
    sql_type    text NOT NULL,
    nullable    boolean NOT NULL,
    "default"   text,
    key_place   integer,
    PRIMARY KEY (table_name, column_name)
);

-- Which rows each of them was given last: equal digests are equal tables, in whatever cell.
CREATE TABLE IF NOT EXISTS domicile.reference_loads (
    table_name text PRIMARY KEY,
    digest     text NOT NULL,
    rows       bigint NOT NULL,
    loaded_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    loaded_by  text NOT NULL
);

-- ``version`` grows with each change, by the clock so that it does also after a drop or a restore; ``content`` is what
-- lies in the table, as ``reference_content`` spells it; ``origin`` the cell that it was pulled from, NULL where an operator
-- loaded it here. All of them came later.
ALTER TABLE domicile.reference_loads ADD COLUMN IF NOT EXISTS version bigint NOT NULL DEFAULT 1;
ALTER TABLE domicile.reference_loads ADD COLUMN IF NOT EXISTS content text;
ALTER TABLE domicile.reference_loads ADD COLUMN IF NOT EXISTS origin text;

-- Which cell writes a reference table, as the manifest says; ``seen``: the last version that it was heard to have.
CREATE TABLE IF NOT EXISTS domicile.reference_sources (
    table_name   text PRIMARY KEY,
    cell         text NOT NULL,
    seen         bigint,
    confirmed_at timestamptz
);

-- A version that is on its way here, and the pages of it that have come: nobody reads from them.
CREATE TABLE IF NOT EXISTS domicile.reference_pulls (
    table_name text PRIMARY KEY,
    cell       text NOT NULL,
    version    bigint NOT NULL,
    digest     text NOT NULL,
    content    text NOT NULL,
    rows       bigint NOT NULL
);
CREATE TABLE IF NOT EXISTS domicile.reference_pages (
    table_name text NOT NULL REFERENCES domicile.reference_pulls ON DELETE CASCADE,
    place      bigint NOT NULL,
    page       jsonb NOT NULL,
    PRIMARY KEY (table_name, place)
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

-- What crossed this cell's border, or tried to, before the ledger was there (ledger.sql). No subject is named.
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

-- The newest generation of keys under which a subject's rows may lie, as this statement's snapshot has it.
CREATE OR REPLACE FUNCTION domicile.newest_keys(subject bytea) RETURNS integer
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT greatest(f.oldest_keys, (SELECT t.newest_keys FROM domicile.turns t WHERE t.subject = f.internal_id))
    FROM domicile.fences f WHERE f.subject_key = newest_keys.subject OR f.previous_key = newest_keys.subject
$$;

-- Say that rows of an open subject may lie under keys of this generation; committed before anybody writes with them.
CREATE OR REPLACE FUNCTION domicile.announce_keys(wanted uuid, generation integer) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO domicile.turns AS t (subject, newest_keys)
        SELECT f.internal_id, generation FROM domicile.fences f WHERE f.internal_id = wanted AND f.state = 'open'
    ON CONFLICT ON CONSTRAINT turns_pkey DO UPDATE SET newest_keys = greatest(t.newest_keys, excluded.newest_keys);
    RETURN FOUND;
END
$$;

-- Let nobody write with keys of an open subject from before this generation, once who does has ended.
CREATE OR REPLACE FUNCTION domicile.withdraw_keys(wanted uuid, generation integer) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE domicile.fences AS f SET oldest_keys = greatest(f.oldest_keys, generation)
    WHERE f.internal_id = wanted AND f.state = 'open';
    IF FOUND THEN
        DELETE FROM domicile.turns t WHERE t.subject = wanted AND t.newest_keys <= generation;
        RETURN true;
    END IF;
    RETURN false;
END
$$;

-- The newest generation of the cell's index secret under which rows may lie, as this statement's snapshot has it.
CREATE OR REPLACE FUNCTION domicile.newest_index() RETURNS integer
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.newest_index FROM domicile.cell c
$$;

-- Say that rows may lie under an index secret of this generation; committed before anybody writes with it.
CREATE OR REPLACE FUNCTION domicile.announce_index(generation integer) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE domicile.cell AS c SET newest_index = greatest(c.newest_index, generation)
$$;

-- Let nobody who begins from now on write with an index secret from before this generation.
CREATE OR REPLACE FUNCTION domicile.withdraw_index(generation integer) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE domicile.cell AS c SET
        newest_index = greatest(c.newest_index, generation), oldest_index = greatest(c.oldest_index, generation)
$$;

-- The same for who has begun to write for an open subject, once he has ended: he may have looked at the cell before.
CREATE OR REPLACE FUNCTION domicile.settle_index(wanted uuid, generation integer) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE domicile.fences AS f SET oldest_index = greatest(f.oldest_index, generation)
    WHERE f.internal_id = wanted AND f.state = 'open';
    RETURN FOUND;
END
$$;

-- All rows of a subject are under an index secret of this generation; said after nobody can write with one of before.
CREATE OR REPLACE FUNCTION domicile.index_turned(wanted uuid, generation integer) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE domicile.fences AS f SET turned_index = greatest(f.turned_index, generation)
    WHERE f.internal_id = wanted AND f.oldest_index >= generation
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
CREATE INDEX IF NOT EXISTS answers_asked_at ON domicile.answers (asked_at);

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
    label  text;
    oldest integer;
    oldest_index integer;
    made_with text[];
    whose  uuid;
    shredded boolean;
    keep   bigint;
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
    -- what counts a row and dates it is for the database to write, whatever the application's statement says
    IF session_user IN ('domicile_app', 'domicile_turner') THEN
        IF TG_OP = 'INSERT' THEN
            NEW.version := 1;
            -- rows of one statement may be dated in the order in which they were given, a microsecond apart
            IF (NEW.created_at BETWEEN statement_timestamp() AND statement_timestamp() + interval '1 ms') IS NOT TRUE THEN
                NEW.created_at := clock_timestamp();
            END IF;
            NEW.updated_at := clock_timestamp();
        ELSE
            NEW.created_at := OLD.created_at;
            IF session_user = 'domicile_turner' THEN  -- other bytes for the same values
                NEW.version := OLD.version;
                NEW.updated_at := OLD.updated_at;
            ELSE
                NEW.version := OLD.version + 1;
                NEW.updated_at := clock_timestamp();
            END IF;
        END IF;
        -- tables of before may not have the column yet
        SELECT (SELECT r.keep_seconds FROM domicile.retention r WHERE r.table_name = TG_TABLE_NAME) INTO keep
        FROM pg_attribute a WHERE a.attrelid = TG_RELID AND a.attname = 'expires_at' AND NOT a.attisdropped;
        IF FOUND THEN
            IF TG_OP = 'INSERT' THEN
                NEW.expires_at := NEW.created_at + make_interval(secs => keep);  -- NULL: for ever
            ELSE
                NEW.expires_at := OLD.expires_at;
            END IF;
        END IF;
    END IF;
    -- the common case in one look: the label, and the fence open at the row's epoch, which is held from here on
    SELECT c.jurisdiction, f.oldest_keys, greatest(c.oldest_index, f.oldest_index), f.internal_id, f.shredded
    INTO label, oldest, oldest_index, whose, shredded
    FROM domicile.cell c CROSS JOIN domicile.fences f
    WHERE f.subject_key = NEW.subject_key AND f.epoch = NEW.epoch AND f.state = 'open'
      AND NOT EXISTS (SELECT FROM domicile.intents i WHERE i.subject = f.internal_id AND i.until > clock_timestamp())
    FOR SHARE OF f;
    IF NOT FOUND THEN
        PERFORM domicile.hold_fence(NEW.subject_key, NEW.epoch);
        SELECT c.jurisdiction, f.oldest_keys, greatest(c.oldest_index, f.oldest_index), f.internal_id, f.shredded
        INTO label, oldest, oldest_index, whose, shredded
        FROM domicile.cell c CROSS JOIN domicile.fences f
        WHERE f.subject_key = NEW.subject_key;
    END IF;
    -- domicile.keys: 'KEYS/INDEX', the generations of the keys that sealed the row and of the cell's secret that indexed
    -- it, 0 where nothing is sealed or indexed so; who does not say it is of before
    IF oldest > 1 OR oldest_index > 1 THEN
        made_with := string_to_array(nullif(current_setting('domicile.keys', true), ''), '/');
        IF coalesce(made_with[1]::integer, 1) BETWEEN 1 AND oldest - 1
            OR coalesce(made_with[2]::integer, 1) BETWEEN 1 AND oldest_index - 1
        THEN
            RAISE EXCEPTION 'there are newer keys' USING ERRCODE = 'DM009';
        END IF;
    END IF;
    -- a principal is the subject, or a random id of the application's after a byte that no pepper has
    IF NEW.principal_key <> NEW.subject_key
        AND (octet_length(NEW.principal_key) <> 17 OR get_byte(NEW.principal_key, 0) <> 0) THEN
        RAISE EXCEPTION 'the row is about nobody that could be named' USING ERRCODE = 'DM003';
    END IF;
    -- whoever still holds the key could put such a row, whose shareable columns and indexes would stay
    IF shredded THEN
        PERFORM FROM domicile.erasures e WHERE e.subject = whose AND e.principal = CASE NEW.principal_key
            WHEN NEW.subject_key THEN whose ELSE encode(substr(NEW.principal_key, 2), 'hex')::uuid END;
        IF FOUND THEN
            RAISE EXCEPTION 'the principal was shredded' USING ERRCODE = 'DM012';
        END IF;
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

-- Forget answers that nobody has asked for in a week, at most this many; how many those were. One that is being asked
-- for is held by who asks, and let be; who asks for one that is being forgotten waits, and finds none.
CREATE OR REPLACE FUNCTION domicile.forget_answers(most integer) RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH old AS (
        SELECT a.subject, a.key FROM domicile.answers a WHERE a.asked_at <= now() - interval '7 days'
        ORDER BY a.asked_at LIMIT most FOR UPDATE SKIP LOCKED
    ), forgotten AS (
        DELETE FROM domicile.answers a USING old WHERE (a.subject, a.key) = (old.subject, old.key) RETURNING 1
    )
    SELECT count(*) FROM forgotten
$$;

-- Subjects are no longer found by the keys that they had before, of one pepper's version; how many those were.
CREATE OR REPLACE FUNCTION domicile.forget_previous(version integer) RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH forgotten AS (
        UPDATE domicile.fences SET previous_key = NULL WHERE get_byte(previous_key, 0) = version RETURNING 1
    )
    SELECT count(*) FROM forgotten
$$;

-- Restores of this database: to which moment, and what became of the fences that each closed. ended: all are settled.
CREATE TABLE IF NOT EXISTS domicile.restores (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    restored_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    upto        timestamptz,
    fences      bigint NOT NULL,
    reopened    bigint NOT NULL DEFAULT 0,
    behind      bigint NOT NULL DEFAULT 0,
    moved       bigint NOT NULL DEFAULT 0,
    erased      bigint NOT NULL DEFAULT 0,
    unclear     bigint NOT NULL DEFAULT 0,
    rows_gone   bigint NOT NULL DEFAULT 0,
    ended       timestamptz
);

-- Subjects (by internal id) whose fence a restore closed, until the directory has said what they are. verdict: of those
-- that it could not settle, why.
CREATE TABLE IF NOT EXISTS domicile.unsettled (
    subject uuid PRIMARY KEY,
    verdict text
);

-- After a restore, before anybody can use it: every fence is closed, and no grant of before opens one.
CREATE OR REPLACE FUNCTION domicile.begin_restored(upto timestamptz) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    closed bigint;
BEGIN
    INSERT INTO domicile.unsettled (subject) SELECT f.internal_id FROM domicile.fences f WHERE f.state = 'open'
    ON CONFLICT DO NOTHING;
    UPDATE domicile.unsettled SET verdict = NULL;
    UPDATE domicile.fences f SET state = 'closed' WHERE f.state = 'open';
    DELETE FROM domicile.intents;
    UPDATE domicile.cell SET incarnation = gen_random_uuid();
    SELECT count(*) INTO closed FROM domicile.unsettled;
    UPDATE domicile.restores SET ended = clock_timestamp() WHERE ended IS NULL;
    INSERT INTO domicile.restores (upto, fences) VALUES (begin_restored.upto, closed);
    RETURN closed;
END
$$;

-- Settle a fence that a restore closed, for this incarnation of the cell: open it at an epoch that the directory granted,
-- or retire it and delete its subject's rows, which are at home elsewhere or nowhere by now, or leave it closed.
-- How many rows went; none for a fence that is settled already.
CREATE OR REPLACE FUNCTION domicile.settle(subject bytea, place uuid, wanted bigint, judged text) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    held domicile.fences;
    name text;
    went bigint;
    gone bigint := 0;
BEGIN
    PERFORM FROM domicile.cell c WHERE c.incarnation = place FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the grant is for another cell or incarnation' USING ERRCODE = 'DM005';
    END IF;
    SELECT f.* INTO held FROM domicile.fences f JOIN domicile.unsettled u ON u.subject = f.internal_id
    WHERE f.subject_key = settle.subject FOR UPDATE;
    IF NOT FOUND OR held.state <> 'closed' THEN
        DELETE FROM domicile.unsettled u WHERE u.subject = held.internal_id;
        RETURN 0;
    END IF;
    IF judged IN ('reopened', 'behind') THEN
        IF wanted < held.epoch THEN
            RAISE EXCEPTION 'the fence is at a higher epoch' USING ERRCODE = 'DM001';
        END IF;
        UPDATE domicile.fences f SET state = 'open', epoch = wanted WHERE f.subject_key = settle.subject;
    ELSIF judged IN ('moved', 'erased') THEN
        -- rows go by way of an open fence, as every row does; nobody sees it open
        UPDATE domicile.fences f SET state = 'open' WHERE f.subject_key = settle.subject;
        PERFORM set_config('domicile.epoch', held.epoch::text, true);
        FOR name IN
            SELECT DISTINCT c.table_name FROM domicile.columns c JOIN pg_attribute a
                ON a.attrelid = to_regclass(format('public.%I', c.table_name)) AND a.attname = 'subject_key'
            ORDER BY 1
        LOOP
            EXECUTE format('DELETE FROM public.%I WHERE subject_key = $1', name) USING settle.subject;
            GET DIAGNOSTICS went = ROW_COUNT;
            gone := gone + went;
        END LOOP;
        DELETE FROM domicile.answers a WHERE a.subject = held.internal_id;
        UPDATE domicile.fences f SET state = 'retired' WHERE f.subject_key = settle.subject;
    END IF;
    IF judged IN ('reopened', 'behind', 'moved', 'erased') THEN
        DELETE FROM domicile.unsettled u WHERE u.subject = held.internal_id;
        UPDATE domicile.restores r SET
            reopened = r.reopened + (judged = 'reopened')::int, behind = r.behind + (judged = 'behind')::int,
            moved = r.moved + (judged = 'moved')::int, erased = r.erased + (judged = 'erased')::int,
            rows_gone = r.rows_gone + gone
        WHERE r.ended IS NULL;
    ELSE
        UPDATE domicile.unsettled u SET verdict = judged WHERE u.subject = held.internal_id;
    END IF;
    RETURN gone;
END
$$;

-- What is left to settle: how many, and of those how many the directory could not say.
CREATE OR REPLACE FUNCTION domicile.end_restored() RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    remaining bigint;
    doubtful  bigint;
BEGIN
    SELECT count(*), count(u.verdict) INTO remaining, doubtful FROM domicile.unsettled u;
    UPDATE domicile.restores r SET
        unclear = doubtful, ended = CASE WHEN remaining = 0 THEN clock_timestamp() END
    WHERE r.ended IS NULL AND (r.unclear <> doubtful OR remaining = 0);
    RETURN remaining;
END
$$;


-- Each erasure of a subject and each shred of a principal: what was deleted here, and in the end the receipt, by which it
-- is told from one that was interrupted. Keys are named by subject and principal (internal ids); no principal: all.
CREATE TABLE IF NOT EXISTS domicile.erasures (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subject     uuid NOT NULL,
    principal   uuid,
    subject_key bytea NOT NULL CHECK (octet_length(subject_key) = 17),
    epoch       bigint NOT NULL,
    rows        jsonb NOT NULL,
    aliases     integer NOT NULL,
    begun_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    receipt     text,
    receipt_key text,
    UNIQUE NULLS NOT DISTINCT (subject, principal)
);
CREATE INDEX IF NOT EXISTS erasures_by_key ON domicile.erasures (subject_key, id);
CREATE INDEX IF NOT EXISTS erasures_under_way ON domicile.erasures (id) WHERE receipt IS NULL;
UPDATE domicile.fences AS f SET shredded = true FROM domicile.erasures e  -- of before the fence said so
WHERE e.subject = f.internal_id AND e.principal IS NOT NULL AND NOT f.shredded;

-- Delete a subject's rows that are about a principal, or all of them, and keep how many of each table. Called with the
-- fence locked. Counts add up where a principal is shredded again, and the receipt is then to be made anew.
CREATE OR REPLACE FUNCTION domicile.delete_rows(held domicile.fences, whose uuid, about bytea, named integer)
RETURNS domicile.erasures
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    place text;
    count bigint;
    gone  jsonb := '{}';
    kept  domicile.erasures;
BEGIN
    IF current_setting('synchronous_commit') NOT IN ('on', 'remote_apply') THEN
        RAISE EXCEPTION 'synchronous_commit is below on' USING ERRCODE = 'DM004';
    END IF;
    DELETE FROM domicile.intents i WHERE i.subject = held.internal_id;
    PERFORM set_config('domicile.epoch', held.epoch::text, true);
    FOR place IN
        SELECT DISTINCT c.table_name FROM domicile.columns c JOIN pg_attribute a
            ON a.attrelid = to_regclass(format('public.%I', c.table_name)) AND a.attname = 'subject_key'
        ORDER BY 1
    LOOP
        EXECUTE format('DELETE FROM public.%I WHERE subject_key = $1 AND ($2 IS NULL OR principal_key = $2)', place)
            USING held.subject_key, about;
        GET DIAGNOSTICS count = ROW_COUNT;
        IF count > 0 THEN
            gone := gone || jsonb_build_object(place, count);
        END IF;
    END LOOP;
    INSERT INTO domicile.erasures AS e (subject, principal, subject_key, epoch, rows, aliases)
    VALUES (held.internal_id, whose, held.subject_key, held.epoch, gone, named)
    ON CONFLICT (subject, principal) DO UPDATE SET
        epoch = excluded.epoch,
        aliases = e.aliases + excluded.aliases,
        rows = (
            SELECT coalesce(jsonb_object_agg(s.key, s.total), '{}') FROM (
                SELECT a.key, sum(a.value::bigint) AS total FROM (
                    SELECT * FROM jsonb_each_text(e.rows) UNION ALL SELECT * FROM jsonb_each_text(excluded.rows)
                ) a GROUP BY a.key
            ) s
        ),
        receipt = CASE WHEN excluded.rows = '{}' AND excluded.aliases = 0 THEN e.receipt END
    RETURNING e.* INTO kept;
    RETURN kept;
END
$$;

-- Retire the fence of a subject that is open at an epoch and delete all that was stored for it, at once or not at all.
-- Whoever comes back has a fence of a higher epoch, and another internal id: the keys of before are never made anew.
CREATE OR REPLACE FUNCTION domicile.erase_subject(subject bytea, wanted bigint) RETURNS SETOF domicile.erasures
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    held domicile.fences;
BEGIN
    SELECT f.* INTO held FROM domicile.fences f WHERE f.subject_key = subject FOR UPDATE;
    IF held.state IS DISTINCT FROM 'open' OR held.epoch IS DISTINCT FROM wanted THEN
        RAISE EXCEPTION 'the fence is not open at this epoch' USING ERRCODE = 'DM001';
    END IF;
    RETURN NEXT domicile.delete_rows(
        held, NULL, NULL, (SELECT count(*)::integer FROM jsonb_object_keys(held.alias_keys)));
    DELETE FROM domicile.answers a WHERE a.subject = held.internal_id;
    DELETE FROM domicile.turns t WHERE t.subject = held.internal_id;
    -- at the tombstone's epoch, so that a directory that has lost the tombstone gets it back from here
    UPDATE domicile.fences AS f
    SET state = 'retired', epoch = f.epoch + 1, internal_id = gen_random_uuid(), alias_keys = '{}', oldest_keys = 1,
        shredded = false
    WHERE f.subject_key = held.subject_key;
END
$$;

-- Delete the rows of a subject, open at an epoch, that are about one principal; the subject itself is one, by its
-- internal id. Others are named in rows by their id after a byte that no pepper has.
CREATE OR REPLACE FUNCTION domicile.shred_principal(subject bytea, wanted bigint, whose uuid)
RETURNS SETOF domicile.erasures
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    held  domicile.fences;
    about bytea := '\x00'::bytea || uuid_send(whose);
    named integer := 0;
BEGIN
    SELECT f.* INTO held FROM domicile.fences f WHERE f.subject_key = subject FOR UPDATE;
    IF held.state IS DISTINCT FROM 'open' OR held.epoch IS DISTINCT FROM wanted THEN
        RAISE EXCEPTION 'the fence is not open at this epoch' USING ERRCODE = 'DM001';
    END IF;
    IF whose = held.internal_id THEN  -- by whose aliases nobody is found any more
        about := held.subject_key;
        named := (SELECT count(*) FROM jsonb_object_keys(held.alias_keys));
    END IF;
    RETURN NEXT domicile.delete_rows(held, whose, about, named);
    UPDATE domicile.fences AS f
    SET shredded = true, alias_keys = CASE WHEN whose = held.internal_id THEN '{}' ELSE f.alias_keys END
    WHERE f.subject_key = held.subject_key AND (named > 0 OR NOT f.shredded);
END
$$;

-- The last erasure of a subject, by its key or the one before.
CREATE OR REPLACE FUNCTION domicile.last_erasure(subject bytea) RETURNS SETOF domicile.erasures
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT e.* FROM domicile.erasures e
    WHERE e.principal IS NULL AND e.subject_key = coalesce(
        (SELECT f.subject_key FROM domicile.fences f WHERE f.previous_key = last_erasure.subject), last_erasure.subject)
    ORDER BY e.id DESC LIMIT 1
$$;

-- Erasures and shreds that were begun and have no receipt yet.
CREATE OR REPLACE FUNCTION domicile.erasures_under_way(most integer) RETURNS SETOF domicile.erasures
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT e.* FROM domicile.erasures e WHERE e.receipt IS NULL ORDER BY e.id LIMIT most
$$;

-- Keep the receipt of an erasure, unless there is one; what is kept by now, as durable as this commit.
CREATE OR REPLACE FUNCTION domicile.keep_receipt(erasure bigint, signed text, signed_by text)
RETURNS SETOF domicile.erasures
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE domicile.erasures AS e
    SET receipt = coalesce(e.receipt, signed),
        receipt_key = CASE WHEN e.receipt IS NULL THEN signed_by ELSE e.receipt_key END
    WHERE e.id = erasure
    RETURNING e.*
$$;

-- What may be released from here, as operators declared it; the last one of a name is in force.
CREATE TABLE IF NOT EXISTS domicile.release_declarations (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text NOT NULL,
    digest      text NOT NULL,
    text        text NOT NULL,
    declared_by text NOT NULL,
    declared_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Each release of this cell, and how far it is. What is signed is kept as text, since it is that which is signed.
CREATE TABLE IF NOT EXISTS domicile.releases (
    name        text NOT NULL,
    revision    bigint NOT NULL CHECK (revision >= 1),
    lineage     text NOT NULL,
    declaration bigint NOT NULL REFERENCES domicile.release_declarations,
    state       text NOT NULL CHECK (state IN ('building', 'ready', 'sending', 'accepted', 'refused')),
    reason      text NOT NULL DEFAULT '',
    manifest    text,
    certificate text,
    signature   text,
    receipt     text,
    pages_sent  integer NOT NULL DEFAULT 0,
    asked_by    text NOT NULL,
    asked_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (name, revision)
);

-- What leaves, exactly as it was signed, until the other side has accepted it.
CREATE TABLE IF NOT EXISTS domicile.release_pages (
    name     text NOT NULL,
    revision bigint NOT NULL,
    number   integer NOT NULL,
    body     text NOT NULL,
    PRIMARY KEY (name, revision, number),
    FOREIGN KEY (name, revision) REFERENCES domicile.releases
);

-- The class of each subject in each release, by names that are the lineage's own: what a later release of the lineage is
-- held against. It never leaves.
CREATE TABLE IF NOT EXISTS domicile.release_members (
    name     text NOT NULL,
    revision bigint NOT NULL,
    person   bytea NOT NULL CHECK (octet_length(person) = 16),
    class    bytea NOT NULL CHECK (octet_length(class) = 16),
    PRIMARY KEY (name, revision, person),
    FOREIGN KEY (name, revision) REFERENCES domicile.releases
);

-- What arrived from other jurisdictions. Pages wait in releases.pages until all of a release was looked at; rows are of
-- accepted releases alone.
CREATE TABLE IF NOT EXISTS releases.arrivals (
    id          text PRIMARY KEY,
    source      text NOT NULL,
    cell        text NOT NULL,
    name        text NOT NULL,
    revision    bigint NOT NULL,
    state       text NOT NULL CHECK (state IN ('offered', 'accepted')),
    manifest    text NOT NULL,
    certificate text NOT NULL,
    signature   text NOT NULL,
    receipt     text,
    offered_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    accepted_at timestamptz,
    UNIQUE (source, cell, name, revision)
);
CREATE TABLE IF NOT EXISTS releases.pages (
    id     text NOT NULL REFERENCES releases.arrivals ON DELETE CASCADE,
    number integer NOT NULL,
    body   text NOT NULL,
    PRIMARY KEY (id, number)
);
CREATE TABLE IF NOT EXISTS releases.rows (
    id     text NOT NULL REFERENCES releases.arrivals,
    number bigint NOT NULL,
    row    jsonb NOT NULL,
    PRIMARY KEY (id, number)
);

REVOKE ALL ON ALL TABLES IN SCHEMA releases FROM PUBLIC;
GRANT USAGE ON SCHEMA domicile, releases TO domicile_border;
GRANT SELECT, INSERT ON domicile.release_declarations, domicile.release_members TO domicile_border;
GRANT SELECT, INSERT, UPDATE ON domicile.releases TO domicile_border;
GRANT SELECT, INSERT, DELETE ON domicile.release_pages TO domicile_border;
GRANT SELECT ON domicile.columns TO domicile_border;
GRANT SELECT, INSERT, UPDATE, DELETE ON releases.arrivals TO domicile_border;
GRANT SELECT, INSERT, DELETE ON releases.pages TO domicile_border;
GRANT SELECT, INSERT ON releases.rows TO domicile_border;


-- What the class of a reference table says of its columns, in the order of their names. NULL for a table of no such class,
-- and for one that is on record as a table of records, too.
CREATE OR REPLACE FUNCTION domicile.reference_fields(name text) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_agg(jsonb_build_array(l.column_name, l.category, l.sql_type, l.nullable, l.key_place) ORDER BY l.column_name)
    FROM domicile.reference_columns l
    WHERE l.table_name = name AND NOT EXISTS (SELECT FROM domicile.columns c WHERE c.table_name = name)
$$;

-- The SQL of a row of a reference table (t) as a JSON array of texts, in the order of its columns' names; of its key.
CREATE OR REPLACE FUNCTION domicile.reference_row(name text, OUT cells text, OUT keys text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('to_jsonb(ARRAY[%s])', string_agg(format('t.%I::text', l.column_name), ', ' ORDER BY l.column_name)),
           string_agg(format('t.%I', l.column_name), ', ' ORDER BY l.key_place) FILTER (WHERE l.key_place IS NOT NULL)
    FROM domicile.reference_columns l WHERE l.table_name = name
$$;

-- A hash of all rows of a reference table, spelled alike in every cell whatever its own settings are.
CREATE OR REPLACE FUNCTION domicile.reference_content(name text) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO' SET bytea_output = 'hex' AS $$
DECLARE
    found text;
BEGIN
    EXECUTE format(
        $q$SELECT encode(sha256(convert_to(coalesce(string_agg(s.line, E'\n' ORDER BY s.line COLLATE "C"), ''), 'UTF8')), 'hex')
        FROM (SELECT (%s)::text AS line FROM public.%I t) s$q$, (SELECT r.cells FROM domicile.reference_row(name) r), name
    ) INTO found;
    RETURN found;
END
$$;
DO $contents$ BEGIN
    UPDATE domicile.reference_loads l SET content = domicile.reference_content(l.table_name)
    WHERE l.content IS NULL AND to_regclass(format('public.%I', l.table_name)) IS NOT NULL;
END $contents$;

-- Say which cell writes each reference table (JSON, by the table's name). What this cell is to write from now on is its own.
CREATE OR REPLACE FUNCTION domicile.name_sources(named jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM domicile.reference_sources s WHERE NOT named ? s.table_name;
    DELETE FROM domicile.reference_pulls p WHERE (named ->> p.table_name) IS DISTINCT FROM p.cell;
    INSERT INTO domicile.reference_sources AS s (table_name, cell) SELECT n.key, n.value FROM jsonb_each_text(named) n
    ON CONFLICT (table_name) DO UPDATE SET cell = excluded.cell, seen = NULL, confirmed_at = NULL
        WHERE s.cell <> excluded.cell;
    UPDATE domicile.reference_loads l SET origin = NULL
    WHERE l.origin IS NOT NULL AND (named ->> l.table_name) = (SELECT c.cell FROM domicile.cell c);
END
$$;

-- A page of a reference table that this cell writes: rows behind so many (after), at most so many and so many bytes of
-- them, but one at least; none where the caller knows this version. Version and rows are of one snapshot. No row for any
-- other table.
CREATE OR REPLACE FUNCTION domicile.reference_page(name text, known bigint, after bigint, most integer, bytes bigint)
RETURNS TABLE (version bigint, digest text, content text, total bigint, fields jsonb, page jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO' SET bytea_output = 'hex' AS $$
DECLARE
    said record;
BEGIN
    SELECT l.version, l.digest, l.content, l.rows, domicile.reference_fields(name) INTO version, digest, content, total, fields
    FROM domicile.reference_loads l
    JOIN domicile.reference_sources s USING (table_name) JOIN domicile.cell c ON c.cell = s.cell
    WHERE l.table_name = name AND l.origin IS NULL;
    IF NOT FOUND OR fields IS NULL THEN
        RETURN;
    END IF;
    page := '[]';
    IF known IS DISTINCT FROM version THEN
        SELECT r.cells, r.keys INTO said FROM domicile.reference_row(name) r;
        EXECUTE format(
            $q$SELECT coalesce(jsonb_agg(s.cells ORDER BY s.n), '[]') FROM (
                SELECT p.cells, p.n, sum(octet_length(p.cells::text)) OVER (ORDER BY p.n) AS size FROM (
                    SELECT %s AS cells, row_number() OVER (ORDER BY %s) AS n FROM public.%I t ORDER BY n OFFSET $1 LIMIT $2
                ) p
            ) s WHERE s.size <= $3 OR s.n = $1 + 1$q$, said.cells, said.keys, name
        ) INTO page USING after, most, bytes;
    END IF;
    RETURN NEXT;
END
$$;

-- Begin to take a version of a reference table from the cell that writes it, or go on; how many of its rows are here.
-- NULL where this cell has it already, or had a later one from there.
CREATE OR REPLACE FUNCTION domicile.begin_pull(
    name text, source text, offered bigint, said text, spelled text, total bigint, described jsonb) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM domicile.reference_sources s JOIN domicile.cell c ON c.cell <> s.cell
    WHERE s.table_name = name AND s.cell = source FOR UPDATE OF s;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'another cell writes this table' USING ERRCODE = 'DM011';
    END IF;
    IF domicile.reference_fields(name) IS DISTINCT FROM described THEN
        RAISE EXCEPTION 'the classes of the two cells differ' USING ERRCODE = 'DM011';
    END IF;
    PERFORM FROM domicile.reference_loads l WHERE l.table_name = name AND l.origin = source AND l.version >= offered;
    IF FOUND THEN
        RETURN NULL;
    END IF;
    DELETE FROM domicile.reference_pulls p
    WHERE p.table_name = name AND (p.cell, p.version, p.content, p.rows) IS DISTINCT FROM (source, offered, spelled, total);
    INSERT INTO domicile.reference_pulls (table_name, cell, version, digest, content, rows)
    VALUES (name, source, offered, said, spelled, total) ON CONFLICT DO NOTHING;
    RETURN (SELECT coalesce(sum(jsonb_array_length(g.page)), 0) FROM domicile.reference_pages g WHERE g.table_name = name);
END
$$;

-- Keep a page of a version that is being taken, if it is the next one; how many rows are here.
CREATE OR REPLACE FUNCTION domicile.keep_page(name text, offered bigint, at bigint, given jsonb) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    here bigint;
BEGIN
    PERFORM FROM domicile.reference_pulls p WHERE p.table_name = name AND p.version = offered FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT coalesce(sum(jsonb_array_length(g.page)), 0) INTO here FROM domicile.reference_pages g WHERE g.table_name = name;
    IF here = at AND jsonb_array_length(given) > 0 THEN
        INSERT INTO domicile.reference_pages (table_name, place, page) VALUES (name, at, given);
        here := here + jsonb_array_length(given);
    END IF;
    RETURN here;
END
$$;

-- Put a version whose pages are all here in the place of the one before, for whoever reads from this commit on. False
-- where it is here by now. What lies in the table is compared with what lay in the writer's; pages that make another table
-- are given up with DM011.
CREATE OR REPLACE FUNCTION domicile.take_reference(name text, offered bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO' AS $$
DECLARE
    pulled domicile.reference_pulls;
    names  text;
    typed  text;
BEGIN
    SELECT p.* INTO pulled FROM domicile.reference_pulls p WHERE p.table_name = name AND p.version = offered FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    EXECUTE format('LOCK TABLE public.%I IN SHARE ROW EXCLUSIVE MODE', name);
    SELECT string_agg(format('%I', l.column_name), ', ' ORDER BY l.column_name),
           string_agg(format('(r.cells ->> %s)::%s', l.place - 1, l.sql_type), ', ' ORDER BY l.column_name)
    INTO names, typed
    FROM (SELECT c.*, row_number() OVER (ORDER BY c.column_name) AS place
          FROM domicile.reference_columns c WHERE c.table_name = name) l;
    EXECUTE format('DELETE FROM public.%I', name);
    EXECUTE format(
        $q$INSERT INTO public.%I (%s) SELECT %s FROM domicile.reference_pages g, jsonb_array_elements(g.page) r (cells)
        WHERE g.table_name = $1$q$, name, names, typed) USING name;
    IF domicile.reference_content(name) <> pulled.content THEN
        RAISE EXCEPTION 'the rows are not those of the writer' USING ERRCODE = 'DM011';
    END IF;
    INSERT INTO domicile.reference_loads AS l (table_name, digest, rows, loaded_by, version, content, origin)
    VALUES (name, pulled.digest, pulled.rows, pulled.cell, offered, pulled.content, pulled.cell)
    ON CONFLICT (table_name) DO UPDATE SET
        digest = excluded.digest, rows = excluded.rows, loaded_by = excluded.loaded_by, loaded_at = clock_timestamp(),
        version = excluded.version, content = excluded.content, origin = excluded.origin;
    DELETE FROM domicile.reference_pulls p WHERE p.table_name = name;
    RETURN true;
END
$$;

-- Give up what has come of a version.
CREATE OR REPLACE FUNCTION domicile.drop_pull(name text) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM domicile.reference_pulls p WHERE p.table_name = drop_pull.name
$$;

-- Keep that the cell that writes a table was heard to have this version just now.
CREATE OR REPLACE FUNCTION domicile.hear_reference(name text, source text, heard bigint) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE domicile.reference_sources s SET seen = heard, confirmed_at = clock_timestamp()
    WHERE s.table_name = name AND s.cell = source
$$;

-- Every reference table that has a writer or rows: what is here, from where, and how long ago its writer was heard of.
CREATE OR REPLACE FUNCTION domicile.reference_states() RETURNS TABLE (
    table_name text, source text, origin text, version bigint, seen bigint, digest text, rows bigint, age double precision)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT table_name, s.cell, l.origin, l.version, s.seen, l.digest, l.rows,
           extract(epoch FROM clock_timestamp() - s.confirmed_at)::double precision
    FROM domicile.reference_loads l FULL JOIN domicile.reference_sources s USING (table_name) ORDER BY 1
$$;

REVOKE ALL ON ALL TABLES IN SCHEMA domicile FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA domicile FROM PUBLIC;
GRANT USAGE ON SCHEMA domicile TO domicile_app, domicile_cell, domicile_gateway, domicile_abroad, domicile_eraser;
GRANT INSERT (purpose) ON domicile.cell_sessions TO domicile_cell;
GRANT EXECUTE ON FUNCTION domicile.read_fence(bytea) TO domicile_cell;
GRANT EXECUTE ON FUNCTION domicile.hold_fence(bytea, bigint) TO domicile_app;
GRANT EXECUTE ON FUNCTION domicile.read_fence(bytea) TO domicile_app, domicile_abroad;
GRANT EXECUTE ON FUNCTION domicile.enter(bytea) TO domicile_app;
GRANT EXECUTE ON FUNCTION domicile.newest_keys(bytea) TO domicile_app;
GRANT EXECUTE ON FUNCTION domicile.newest_index() TO domicile_app, domicile_cell;
GRANT EXECUTE ON FUNCTION domicile.recall(bytea, bigint, bytea, bytea) TO domicile_app;
GRANT EXECUTE ON FUNCTION domicile.remember(bytea, bytea, bigint[]) TO domicile_app;
GRANT EXECUTE ON FUNCTION domicile.open_fence(bytea, text, text, uuid, bigint, jsonb) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.intend(bytea, bigint, double precision) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.close_fence(bytea, bigint) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.give_up(bytea) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.rekey_fence(bytea, bytea, jsonb) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.forget_previous(integer) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.sweep(integer) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.announce_keys(uuid, integer) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.withdraw_keys(uuid, integer) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.announce_index(integer) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.withdraw_index(integer) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.settle_index(uuid, integer) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.index_turned(uuid, integer) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.settle(bytea, uuid, bigint, text) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.end_restored() TO domicile_gateway;
GRANT SELECT ON domicile.cell, domicile.fences, domicile.unsettled, domicile.restores TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.intend(bytea, bigint, double precision) TO domicile_eraser;
GRANT EXECUTE ON FUNCTION domicile.give_up(bytea) TO domicile_eraser;
GRANT EXECUTE ON FUNCTION domicile.erase_subject(bytea, bigint) TO domicile_eraser;
GRANT EXECUTE ON FUNCTION domicile.shred_principal(bytea, bigint, uuid) TO domicile_eraser;
GRANT EXECUTE ON FUNCTION domicile.last_erasure(bytea) TO domicile_eraser;
GRANT EXECUTE ON FUNCTION domicile.erasures_under_way(integer) TO domicile_eraser;
GRANT EXECUTE ON FUNCTION domicile.keep_receipt(bigint, text, text) TO domicile_eraser;
GRANT EXECUTE ON FUNCTION domicile.forget_answers(integer) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.name_sources(jsonb) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.reference_page(text, bigint, bigint, integer, bigint) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.begin_pull(text, text, bigint, text, text, bigint, jsonb) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.keep_page(text, bigint, bigint, jsonb) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.take_reference(text, bigint) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.drop_pull(text) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.hear_reference(text, text, bigint) TO domicile_gateway;
GRANT EXECUTE ON FUNCTION domicile.reference_states() TO domicile_gateway;
GRANT SELECT ON domicile.cell, domicile.fences TO domicile_gateway;
GRANT SELECT ON domicile.columns TO domicile_abroad, domicile_gateway;
GRANT INSERT ON domicile.border_events TO domicile_gateway;
GRANT USAGE ON SCHEMA domicile TO domicile_fencer;
GRANT SELECT ON domicile.fences, domicile.intents TO domicile_fencer;

-- End the application's sessions that one of the caller's own (by its process) waits for, to close the fence of a
-- subject that is about to move; for so many seconds, or until nobody is in its way. How many were ended. They hold the
-- fence, whose holders are known to nobody but to who waits for them. One whose COMMIT waits for a standby is let be:
-- ending it would show what is in one zone alone.
RESET ROLE;
CREATE FUNCTION domicile.end_writers(subject bytea, closer integer, seconds double precision) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    until timestamptz := clock_timestamp() + make_interval(secs => seconds);
    ended integer[] := '{}';
    pid   integer;
BEGIN
    PERFORM FROM domicile.intents i JOIN domicile.fences f ON f.internal_id = i.subject
    WHERE f.subject_key = end_writers.subject AND i.until > clock_timestamp();
    IF NOT FOUND OR NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = closer AND a.usename = session_user) THEN
        RETURN 0;
    END IF;
    WHILE clock_timestamp() < until AND cardinality(pg_blocking_pids(closer)) > 0 LOOP
        PERFORM pg_stat_clear_snapshot();
        FOR pid IN
            SELECT a.pid FROM pg_stat_activity a
            WHERE a.pid = ANY (pg_blocking_pids(closer)) AND a.usename IN ('domicile_app', 'domicile_turner')
              AND a.wait_event IS DISTINCT FROM 'SyncRep' AND a.pid <> ALL (ended)
        LOOP
            PERFORM pg_terminate_backend(pid);
            ended := ended || pid;
        END LOOP;
        PERFORM pg_sleep(0.002);
    END LOOP;
    RETURN cardinality(ended);
END
$$;
ALTER FUNCTION domicile.end_writers OWNER TO domicile_fencer;
REVOKE ALL ON FUNCTION domicile.end_writers FROM PUBLIC;
GRANT EXECUTE ON FUNCTION domicile.end_writers TO domicile_gateway;

-- the number grows with each change of this file, or of ledger.sql; `schema apply` takes no database back to a lower one
COMMENT ON SCHEMA domicile IS 'schema 5';

-- The border's ledger: what crossed and what was refused, as lines that are only ever added. Part of the system schema,
-- and of its number. SQLSTATE DM010: a line is never changed. What a superuser does all the same is found by the tree.
CREATE SCHEMA IF NOT EXISTS ledger AUTHORIZATION domicile_owner;
SET LOCAL ROLE domicile_owner;

-- Which ledger this is: a cell that begins one anew begins another.
CREATE TABLE IF NOT EXISTS ledger.log (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    id       uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO ledger.log DEFAULT VALUES ON CONFLICT DO NOTHING;

-- ``leaf``: SHA-256 of 0x00 and the line. ``at`` is the line's own, kept apart to be looked for.
CREATE TABLE IF NOT EXISTS ledger.lines (
    index bigint PRIMARY KEY CHECK (index >= 0),
    leaf  bytea NOT NULL CHECK (octet_length(leaf) = 32),
    at    timestamptz NOT NULL,
    line  text NOT NULL CHECK (octet_length(line) <= 4096)
);
CREATE INDEX IF NOT EXISTS lines_by_time ON ledger.lines (at);
CREATE INDEX IF NOT EXISTS lines_by_release ON ledger.lines ((line::jsonb ->> 'decision_id'))
WHERE starts_with(line, '{"kind":"release",');

-- The hash of each whole subtree of 256 lines (level 1), of 256 of those (level 2), and so on: what proofs are made of.
CREATE TABLE IF NOT EXISTS ledger.tiles (
    level integer NOT NULL CHECK (level > 0),
    index bigint NOT NULL CHECK (index >= 0),
    hash  bytea NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (level, index)
);

-- The last head of each other cell's ledger that went with the one before it, as it was signed.
CREATE TABLE IF NOT EXISTS ledger.heads (
    cell   text NOT NULL,
    log    uuid NOT NULL,
    size   bigint NOT NULL CHECK (size >= 0),
    signed text NOT NULL,
    key    text NOT NULL,
    seen   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (cell, log)
);

-- What did not: both heads, each of which its own gateway signed. Once for each head that was held.
CREATE TABLE IF NOT EXISTS ledger.alarms (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    cell        text NOT NULL,
    verdict     text NOT NULL,
    held        text NOT NULL,
    held_key    text NOT NULL,
    told        text NOT NULL,
    told_key    text NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS alarms_once ON ledger.alarms (cell, verdict, md5(held));

CREATE OR REPLACE FUNCTION ledger.refuse() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is only ever added to' USING ERRCODE = 'DM010';
END
$$;
DO $triggers$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['lines', 'tiles', 'alarms', 'log'] LOOP
        EXECUTE format('CREATE OR REPLACE TRIGGER only_added BEFORE UPDATE OR DELETE ON ledger.%I '
                       'FOR EACH ROW EXECUTE FUNCTION ledger.refuse()', name);
        EXECUTE format('CREATE OR REPLACE TRIGGER never_emptied BEFORE TRUNCATE ON ledger.%I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse()', name);
    END LOOP;
END
$triggers$;

-- The root over hashes whose number is a power of two.
CREATE OR REPLACE FUNCTION ledger.fold(hashes bytea[]) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    WHILE cardinality(hashes) > 1 LOOP
        hashes := ARRAY(
            SELECT sha256('\x01'::bytea || hashes[2 * i - 1] || hashes[2 * i])
            FROM generate_series(1, cardinality(hashes) / 2) AS i ORDER BY i
        );
    END LOOP;
    RETURN hashes[1];
END
$$;

-- Add lines, one after the other and after all that others have added; the place of the first. Whoever adds waits for
-- who did before it to have committed, so that a place is never given twice nor left free.
CREATE OR REPLACE FUNCTION ledger.append(texts text[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    first bigint;
    tile  bigint;
    above bigint;
    up    integer;
BEGIN
    PERFORM pg_advisory_xact_lock(x'646f6d6c'::integer);
    SELECT coalesce(max(l.index) + 1, 0) INTO first FROM ledger.lines l;
    INSERT INTO ledger.lines (index, leaf, at, line)
    SELECT first + n - 1, sha256('\x00'::bytea || convert_to(t, 'UTF8')), (t::jsonb ->> 'at')::timestamptz, t
    FROM unnest(texts) WITH ORDINALITY AS u (t, n);
    FOR tile IN SELECT generate_series(first / 256, (first + cardinality(texts)) / 256 - 1) LOOP
        INSERT INTO ledger.tiles (level, index, hash)
        SELECT 1, tile, ledger.fold(array_agg(l.leaf ORDER BY l.index))
        FROM ledger.lines l WHERE l.index >= tile * 256 AND l.index < (tile + 1) * 256;
        above := tile;
        up := 2;
        WHILE (above + 1) % 256 = 0 LOOP
            above := above / 256;
            INSERT INTO ledger.tiles (level, index, hash)
            SELECT up, above, ledger.fold(array_agg(t.hash ORDER BY t.index))
            FROM ledger.tiles t WHERE t.level = up - 1 AND t.index >= above * 256 AND t.index < (above + 1) * 256;
            up := up + 1;
        END LOOP;
    END LOOP;
    RETURN first;
END
$$;

-- Add the line of a release that passes or is refused, unless its decision has such a one already: whoever was killed
-- between its line and what comes after says it again. The line's place and text either way, and whether it is new.
CREATE OR REPLACE FUNCTION ledger.append_once(text text)
RETURNS TABLE (place bigint, kept text, added boolean)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(x'646f6d6c'::integer);
    RETURN QUERY
        SELECT l.index, l.line, false FROM ledger.lines l
        WHERE starts_with(l.line, '{"kind":"release",')
            AND l.line::jsonb ->> 'outcome' = append_once.text::jsonb ->> 'outcome'
            AND l.line::jsonb ->> 'decision_id' = append_once.text::jsonb ->> 'decision_id'
        ORDER BY l.index LIMIT 1;
    IF NOT FOUND THEN
        RETURN QUERY SELECT ledger.append(ARRAY[append_once.text]), append_once.text, true;
    END IF;
END
$$;

-- Hold another cell's head in the place of a smaller one.
CREATE OR REPLACE FUNCTION ledger.hold(cell text, log uuid, size bigint, signed text, key text) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO ledger.heads AS h (cell, log, size, signed, key) VALUES (hold.cell, hold.log, hold.size, hold.signed, hold.key)
    ON CONFLICT (cell, log) DO UPDATE SET size = excluded.size, signed = excluded.signed, key = excluded.key,
        seen = clock_timestamp()
    WHERE h.size <= excluded.size
$$;

-- Keep that a head does not go with the one that is held; whether that is new.
CREATE OR REPLACE FUNCTION ledger.alarm(
    cell text, verdict text, held text, held_key text, told text, told_key text
) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO ledger.alarms (cell, verdict, held, held_key, told, told_key)
    VALUES (alarm.cell, alarm.verdict, alarm.held, alarm.held_key, alarm.told, alarm.told_key)
    ON CONFLICT DO NOTHING;
    RETURN FOUND;
END
$$;

REVOKE ALL ON ALL TABLES IN SCHEMA ledger FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA ledger FROM PUBLIC;
GRANT USAGE ON SCHEMA ledger TO domicile_ledger;
GRANT SELECT ON ALL TABLES IN SCHEMA ledger TO domicile_ledger;
GRANT EXECUTE ON FUNCTION ledger.append(text[]) TO domicile_ledger;
GRANT EXECUTE ON FUNCTION ledger.append_once(text) TO domicile_ledger;
GRANT EXECUTE ON FUNCTION ledger.hold(text, uuid, bigint, text, text) TO domicile_ledger;
GRANT EXECUTE ON FUNCTION ledger.alarm(text, text, text, text, text, text) TO domicile_ledger;
RESET ROLE;
