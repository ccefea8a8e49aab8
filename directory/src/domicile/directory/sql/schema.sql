-- The directory's own database: the blind map and what is published. Applied to a database that has an older one.
-- Keys are 17 keyed bytes; no column can hold a name, an address or any other personal value.
-- Each change of this text gets the next number; processes of the number before go on over it, so it only adds.
CREATE SCHEMA IF NOT EXISTS directory;
COMMENT ON SCHEMA directory IS 'schema 7';

-- Subject key to home. An epoch never falls and a row is never deleted: an erased subject leaves its tombstone.
CREATE TABLE IF NOT EXISTS directory.pins (
    subject_key  bytea PRIMARY KEY CHECK (octet_length(subject_key) = 17),
    jurisdiction text NOT NULL,
    cell         text NOT NULL,
    epoch        bigint NOT NULL CHECK (epoch >= 1),
    state        text NOT NULL CHECK (state IN ('active', 'moving', 'erased')),
    claimed      timestamptz NOT NULL DEFAULT now()
) PARTITION BY HASH (subject_key);

-- Sixteen parts: indexes that stay shallow and are vacuumed apart. Their number is fixed by the data in them.
DO $$
BEGIN
    FOR part IN 0..15 LOOP
        EXECUTE format(
            'CREATE TABLE IF NOT EXISTS directory.pins_%s PARTITION OF directory.pins
             FOR VALUES WITH (MODULUS 16, REMAINDER %s)', part, part);
    END LOOP;
END
$$;

-- Keyed hash of an e-mail, phone or user name to the one subject that holds it, across all cells.
CREATE TABLE IF NOT EXISTS directory.aliases (
    kind        text NOT NULL,
    alias_key   bytea NOT NULL CHECK (octet_length(alias_key) = 17),
    subject_key bytea NOT NULL REFERENCES directory.pins,
    PRIMARY KEY (kind, alias_key)
);

-- Erasure and another pepper ask for a subject's own.
CREATE INDEX IF NOT EXISTS aliases_of ON directory.aliases (subject_key);

-- By which peppers' keys subjects are named here, or may be: an operator announces each but the first. One that was
-- forgotten names nobody any more.
CREATE TABLE IF NOT EXISTS directory.peppers (
    version   smallint PRIMARY KEY CHECK (version BETWEEN 0 AND 255),
    forgotten timestamptz
);

-- Pins placed in a jurisdiction since its open cells last changed: {cell: {weight, placed}}. One row for each
-- jurisdiction, because its lock is what makes the counts exact.
CREATE TABLE IF NOT EXISTS directory.rounds (
    jurisdiction text PRIMARY KEY,
    cells        jsonb NOT NULL
);

-- The current topology, as an operator signed it: one row. published tells two restores' same revision apart.
CREATE TABLE IF NOT EXISTS directory.topology (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    revision  bigint NOT NULL CHECK (revision >= 1),
    signed    text NOT NULL,
    published timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Public halves of the keys that sign grants (each directory process) and residency tokens (each router).
-- kid is the key's thumbprint, so that a row never changes.
CREATE TABLE IF NOT EXISTS directory.signing_keys (
    kid       text PRIMARY KEY,
    use       text NOT NULL CHECK (use IN ('residency', 'pin-grant')),
    x         text NOT NULL,
    published timestamptz NOT NULL DEFAULT now()
);

-- Who published a key, and may take it out again; until when it is published, where it is no longer used.
ALTER TABLE directory.signing_keys ADD COLUMN IF NOT EXISTS publisher text;
ALTER TABLE directory.signing_keys ADD COLUMN IF NOT EXISTS expires timestamptz;

-- Where the change log stands: one row, whose lock each change of a pin takes as the last one of its transaction
-- and keeps until it has committed. That makes the order of sequence numbers the order of commits, without a gap
-- (a sequence of PostgreSQL's own promises neither). generation is new for each history of this database;
-- changes up to trimmed are no longer kept.
CREATE TABLE IF NOT EXISTS directory.clock (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    generation uuid NOT NULL DEFAULT gen_random_uuid(),
    history    text NOT NULL,
    sequence   bigint NOT NULL DEFAULT 0,
    trimmed    bigint NOT NULL DEFAULT 0
);

-- What a pin became, in the order of commits.
CREATE TABLE IF NOT EXISTS directory.changes (
    sequence     bigint PRIMARY KEY,
    subject_key  bytea NOT NULL,
    jurisdiction text NOT NULL,
    cell         text NOT NULL,
    epoch        bigint NOT NULL,
    state        text NOT NULL,
    changed      timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Which history of which database this is: a promotion and a restore to a point in time each begin a timeline.
CREATE OR REPLACE FUNCTION directory.history() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT system_identifier || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8) FROM pg_control_system()
$$;

INSERT INTO directory.clock (history) VALUES (directory.history()) ON CONFLICT DO NOTHING;

-- Since when claims are refused because this database has lost what was acknowledged, and below which revision of
-- the topology that is not over.
ALTER TABLE directory.clock ADD COLUMN IF NOT EXISTS reconciling_since timestamptz;
ALTER TABLE directory.clock ADD COLUMN IF NOT EXISTS wanted_revision bigint NOT NULL DEFAULT 0;

-- Which generation took the place of which, at which sequence number, and whether what was lost on the way is had
-- back from the cells.
CREATE TABLE IF NOT EXISTS directory.generations (
    previous   uuid NOT NULL,
    generation uuid NOT NULL,
    began      bigint NOT NULL,
    reconciled boolean NOT NULL,
    started    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (previous, generation)
);

-- What each cell has told of its fences in this reconciliation, in the order of their keys.
CREATE TABLE IF NOT EXISTS directory.reports (
    jurisdiction   text NOT NULL,
    cell           text NOT NULL,
    last_key       bytea NOT NULL,
    fences         bigint NOT NULL,
    contradictions bigint NOT NULL,
    done           boolean NOT NULL,
    PRIMARY KEY (jurisdiction, cell)
);

-- Fences of a cell that another one's at a higher epoch overrules: the home is told, and so is the contradiction.
ALTER TABLE directory.reports ADD COLUMN IF NOT EXISTS superseded bigint NOT NULL DEFAULT 0;

-- Begin a generation: of another history of the database, or of one that has lost something. What was logged before
-- is of no use to anybody: who read it may have read what this history never had. seen: the generation that the
-- process which noticed had seen last. The log is left to the trimming: however long it is, this takes no time.
CREATE OR REPLACE FUNCTION directory.begin_generation(seen uuid, lost boolean, revision bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    before directory.clock;
BEGIN
    SELECT * INTO before FROM directory.clock FOR UPDATE;
    IF lost THEN
        DELETE FROM directory.reports;
        UPDATE directory.clock
        SET reconciling_since = clock_timestamp(), wanted_revision = greatest(wanted_revision, revision);
    END IF;
    UPDATE directory.clock SET generation = gen_random_uuid(), history = directory.history(), trimmed = sequence;
    INSERT INTO directory.generations (previous, generation, began, reconciled)
    SELECT known, now.generation, now.sequence, lost
    FROM directory.clock AS now, unnest(ARRAY[before.generation, seen]) AS known
    WHERE known IS NOT NULL
    ON CONFLICT DO NOTHING;
END
$$;

-- A database of before there was such a table names its subjects all the same.
INSERT INTO directory.peppers (version)
SELECT DISTINCT get_byte(subject_key, 0) FROM directory.pins
WHERE NOT EXISTS (SELECT FROM directory.peppers);

-- One statement's changes of pins into the log, whichever statement it was. Refused in a history that no process has
-- looked at yet, and in one that has lost something, but for what brings it back; and where COMMIT would wait for less
-- than a synchronous standby's disk.
CREATE OR REPLACE FUNCTION directory.log_changes() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed bigint;
    now     directory.clock;
BEGIN
    SELECT count(*) INTO changed FROM after_rows;
    IF changed = 0 THEN
        RETURN NULL;
    END IF;
    IF current_setting('synchronous_commit') NOT IN ('on', 'remote_apply') THEN
        RAISE EXCEPTION 'synchronous_commit is below on' USING ERRCODE = 'DM004';
    END IF;
    INSERT INTO directory.peppers (version) SELECT DISTINCT get_byte(subject_key, 0) FROM after_rows
    ON CONFLICT DO NOTHING;
    UPDATE directory.clock SET sequence = sequence + changed RETURNING * INTO now;
    IF EXISTS (
        SELECT FROM after_rows JOIN directory.peppers ON version = get_byte(subject_key, 0)
        WHERE forgotten IS NOT NULL
    ) THEN
        RAISE EXCEPTION 'a key of a pepper that was forgotten' USING ERRCODE = 'DM008';
    END IF;
    IF now.history <> directory.history() OR (
        now.reconciling_since IS NOT NULL AND current_setting('directory.reconciling', true) IS DISTINCT FROM 'on'
    ) THEN
        RAISE EXCEPTION 'the database may have lost pins' USING ERRCODE = 'DM007';
    END IF;
    INSERT INTO directory.changes (sequence, subject_key, jurisdiction, cell, epoch, state)
    SELECT now.sequence - changed + row_number() OVER (), subject_key, jurisdiction, cell, epoch, state
    FROM after_rows;
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER log_inserts AFTER INSERT ON directory.pins
    REFERENCING NEW TABLE AS after_rows FOR EACH STATEMENT EXECUTE FUNCTION directory.log_changes();
CREATE OR REPLACE TRIGGER log_updates AFTER UPDATE ON directory.pins
    REFERENCING NEW TABLE AS after_rows FOR EACH STATEMENT EXECUTE FUNCTION directory.log_changes();

-- A pin is never deleted, and its epoch never falls: whoever tries has lost the compare-and-set. What goes is a
-- tombstone whose key nobody can make any more, with its pepper.
CREATE OR REPLACE FUNCTION directory.keep_pin() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.subject_key = OLD.subject_key AND NEW.epoch > OLD.epoch THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'DELETE' AND OLD.state = 'erased' AND EXISTS (
        SELECT FROM directory.peppers WHERE version = get_byte(OLD.subject_key, 0) AND forgotten IS NOT NULL
    ) THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'a pin is changed at a higher epoch, and never deleted' USING ERRCODE = 'DM006';
END
$$;

CREATE OR REPLACE TRIGGER keep_pin BEFORE UPDATE OR DELETE ON directory.pins
    FOR EACH ROW EXECUTE FUNCTION directory.keep_pin();

-- Forget a pepper that names nobody: its keys are refused from now on, and its tombstones go, at most so many at a time
-- (none: all), because claims wait meanwhile. Whether all have gone. Readers hear of it with the last.
DROP FUNCTION IF EXISTS directory.forget_pepper(smallint);
CREATE OR REPLACE FUNCTION directory.forget_pepper(gone smallint, most bigint DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    first bytea := set_byte('\x00', 0, gone);
    next  bytea := CASE WHEN gone < 255 THEN set_byte('\x00', 0, gone + 1) END;
    went  bigint;
BEGIN
    PERFORM FROM directory.clock FOR UPDATE;
    UPDATE directory.peppers SET forgotten = clock_timestamp() WHERE version = gone AND forgotten IS NULL;
    IF FOUND THEN
        IF EXISTS (
            SELECT FROM directory.pins
            WHERE subject_key >= first AND (next IS NULL OR subject_key < next) AND state <> 'erased'
        ) OR EXISTS (SELECT FROM directory.aliases WHERE get_byte(alias_key, 0) = gone) THEN
            RAISE EXCEPTION 'the pepper still names somebody' USING ERRCODE = 'DM009';
        END IF;
    ELSIF NOT EXISTS (SELECT FROM directory.peppers WHERE version = gone) THEN
        RETURN true;
    END IF;
    DELETE FROM directory.pins WHERE subject_key IN (
        SELECT subject_key FROM directory.pins
        WHERE subject_key >= first AND (next IS NULL OR subject_key < next) LIMIT most
    );
    GET DIAGNOSTICS went = ROW_COUNT;
    IF EXISTS (SELECT FROM directory.pins WHERE subject_key >= first AND (next IS NULL OR subject_key < next)) THEN
        RETURN false;
    END IF;
    IF went > 0 THEN
        PERFORM directory.begin_generation(NULL, false, 0);
    END IF;
    RETURN true;
END
$$;
