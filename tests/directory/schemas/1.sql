-- The directory's own database: the blind map and what is published. Applied at each start, under a lock.
-- Keys are 17 keyed bytes; no column can hold a name, an address or any other personal value.
CREATE SCHEMA IF NOT EXISTS directory;

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
