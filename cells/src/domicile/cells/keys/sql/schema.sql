-- The key service's own store: wrapped keys and who had them unwrapped. Applied at each start, under a lock.
CREATE SCHEMA IF NOT EXISTS keys;

-- One key-encryption key for each domain. It lies outside this database: check_value is a keyed hash that only
-- the right one reproduces, so that a service with a lost or another key refuses to start.
CREATE TABLE IF NOT EXISTS keys.domains (
    domain      text PRIMARY KEY,
    check_value bytea NOT NULL CHECK (octet_length(check_value) = 32),
    created     timestamptz NOT NULL DEFAULT now()
);

-- wrapped: nonce (12), then data key (32) and index key (32) sealed together, and the tag (16).
CREATE TABLE IF NOT EXISTS keys.data_keys (
    subject   uuid NOT NULL,
    principal uuid NOT NULL,
    cell      text NOT NULL,
    domain    text NOT NULL REFERENCES keys.domains,
    wrapped   bytea NOT NULL CHECK (octet_length(wrapped) = 92),
    created   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subject, principal)
);

-- The secret of a cell's blind indexes across subjects; wrapped: nonce (12), key (32), tag (16).
CREATE TABLE IF NOT EXISTS keys.index_keys (
    cell    text PRIMARY KEY,
    domain  text NOT NULL REFERENCES keys.domains,
    wrapped bytea NOT NULL CHECK (octet_length(wrapped) = 60),
    created timestamptz NOT NULL DEFAULT now()
);

-- Which cell had how many keys unwrapped, and how many of them were made for it. No key and no subject.
CREATE TABLE IF NOT EXISTS keys.audit (
    time    timestamptz NOT NULL DEFAULT clock_timestamp(),
    cell    text NOT NULL,
    count   integer NOT NULL,
    created integer NOT NULL
);
