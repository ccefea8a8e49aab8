-- The key service's own store: wrapped keys and who had them unwrapped. Applied at each start, under a lock.
CREATE SCHEMA IF NOT EXISTS keys;

-- Versions of the key-encryption keys that the service holds itself. They lie outside this database: check_value is
-- a keyed hash that only the right one reproduces, so that a service with a lost or another key refuses to start.
CREATE TABLE IF NOT EXISTS keys.keks (
    domain      text NOT NULL,
    version     integer NOT NULL CHECK (version > 0),
    check_value bytea NOT NULL CHECK (octet_length(check_value) = 32),
    created     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (domain, version)
);

-- Whose cell and which key domain a subject is in. Its row is the lock between who makes keys and who destroys them.
-- destroyed: all of the subject's keys were, and none is made any more.
CREATE TABLE IF NOT EXISTS keys.subjects (
    subject   uuid PRIMARY KEY,
    cell      text NOT NULL,
    domain    text NOT NULL,
    created   timestamptz NOT NULL DEFAULT now(),
    destroyed timestamptz
);

-- wrapped: data key (32) and index key (32) together, as the domain's holder wrapped them under a version of its
-- key-encryption key. check_value: a keyed hash that only the right keys reproduce.
CREATE TABLE IF NOT EXISTS keys.data_keys (
    subject     uuid NOT NULL REFERENCES keys.subjects,
    principal   uuid NOT NULL,
    cell        text NOT NULL,
    domain      text NOT NULL,
    version     integer NOT NULL,
    wrapped     bytea NOT NULL CHECK (octet_length(wrapped) BETWEEN 64 AND 4096),
    check_value bytea NOT NULL CHECK (octet_length(check_value) = 16),
    created     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subject, principal)
);
CREATE INDEX IF NOT EXISTS data_keys_by_version ON keys.data_keys (domain, version);

-- A subject's keys of both generations are there while it is turned; keys.subjects says which one is written with.
ALTER TABLE keys.subjects ADD COLUMN IF NOT EXISTS generation integer NOT NULL DEFAULT 1;
ALTER TABLE keys.data_keys ADD COLUMN IF NOT EXISTS generation integer NOT NULL DEFAULT 1;
DO $$
BEGIN
    IF (SELECT cardinality(conkey) FROM pg_constraint WHERE conname = 'data_keys_pkey') = 2 THEN
        ALTER TABLE keys.data_keys DROP CONSTRAINT data_keys_pkey, ADD PRIMARY KEY (subject, principal, generation);
    END IF;
END
$$;
CREATE INDEX IF NOT EXISTS data_keys_by_age ON keys.data_keys (cell, created);

-- Cells whose data keys of before a time are rotated.
CREATE TABLE IF NOT EXISTS keys.rotations (
    cell    text PRIMARY KEY,
    started timestamptz NOT NULL DEFAULT clock_timestamp(),
    running boolean NOT NULL DEFAULT true
);

-- The secret of a cell's blind indexes across subjects.
CREATE TABLE IF NOT EXISTS keys.index_keys (
    cell        text PRIMARY KEY,
    domain      text NOT NULL,
    version     integer NOT NULL,
    wrapped     bytea NOT NULL CHECK (octet_length(wrapped) BETWEEN 32 AND 4096),
    check_value bytea NOT NULL CHECK (octet_length(check_value) = 16),
    created     timestamptz NOT NULL DEFAULT now()
);

-- Both generations of it are there while the cell's rows are turned; turned: it is, or was, written with.
ALTER TABLE keys.index_keys ADD COLUMN IF NOT EXISTS generation integer NOT NULL DEFAULT 1;
ALTER TABLE keys.index_keys ADD COLUMN IF NOT EXISTS turned boolean NOT NULL DEFAULT true;
DO $$
BEGIN
    IF (SELECT cardinality(conkey) FROM pg_constraint WHERE conname = 'index_keys_pkey') = 1 THEN
        ALTER TABLE keys.index_keys DROP CONSTRAINT index_keys_pkey, ADD PRIMARY KEY (cell, generation);
    END IF;
END
$$;

-- Principals whose key was destroyed: it is not made anew.
CREATE TABLE IF NOT EXISTS keys.shredded (
    subject   uuid NOT NULL,
    principal uuid NOT NULL,
    time      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subject, principal)
);

-- Each key that was made, handed out, re-wrapped, refused or destroyed: for whom, by its internal ids. No key.
-- A cell's index secret has no subject, nor has a key for backups, where cell is the database.
CREATE TABLE IF NOT EXISTS keys.audit (
    time      timestamptz NOT NULL DEFAULT clock_timestamp(),
    caller    text NOT NULL,
    cell      text NOT NULL,
    action    text NOT NULL CHECK (action IN ('made', 'unwrapped', 'refused', 'shredded', 'retired')),
    subject   uuid,
    principal uuid
);
CREATE INDEX IF NOT EXISTS audit_by_time ON keys.audit (time);
DO $$
BEGIN
    IF (SELECT pg_get_constraintdef(oid) NOT LIKE '%retired%' FROM pg_constraint WHERE conname = 'audit_action_check') THEN
        ALTER TABLE keys.audit DROP CONSTRAINT audit_action_check, ADD CONSTRAINT audit_action_check
            CHECK (action IN ('made', 'unwrapped', 'refused', 'shredded', 'retired')) NOT VALID;
    END IF;
END
$$;
