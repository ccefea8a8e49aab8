
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
