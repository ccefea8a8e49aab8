-- name: recorded_classes
-- What each field of each record table is; as JSON, what came later.
SELECT table_name, column_name, class, category, sealed, find,
       coalesce((to_jsonb(c) ->> 'optional')::boolean, nullable), kind, to_jsonb(c) ->> 'given'
FROM domicile.columns c ORDER BY table_name, column_name

-- name: declare_release
-- Keep a declaration ($1 name, $2 digest, $3 text, $4 by whom), unless it is the one in force.
INSERT INTO domicile.release_declarations (name, digest, text, declared_by)
SELECT $1, $2, $3, $4
WHERE $2 IS DISTINCT FROM (SELECT digest FROM domicile.release_declarations WHERE name = $1 ORDER BY id DESC LIMIT 1)

-- name: declarations
-- Those in force.
SELECT DISTINCT ON (name) id, name, text FROM domicile.release_declarations ORDER BY name, id DESC

-- name: declaration
-- The one of a name ($1) in force.
SELECT id, name, text FROM domicile.release_declarations WHERE name = $1 ORDER BY id DESC LIMIT 1

-- name: begin_release
-- Ask for a release by the declaration $5: a refused one of this revision is begun anew, another is left as it is.
INSERT INTO domicile.releases AS r (name, revision, lineage, declaration, state, asked_by)
VALUES ($1, $2, $3, $5, 'building', $4)
ON CONFLICT (name, revision) DO UPDATE
SET state = 'building', reason = '', lineage = excluded.lineage, declaration = excluded.declaration,
    asked_by = excluded.asked_by, asked_at = clock_timestamp()
WHERE r.state = 'refused' AND r.manifest IS NULL

-- name: next_revision
-- The last revision of a name ($1) that is not refused, and the highest.
SELECT max(revision) FROM domicile.releases WHERE name = $1

-- name: release
SELECT r.name, r.revision, r.lineage, r.state, r.reason, r.manifest, r.certificate, r.signature, r.receipt,
       r.pages_sent, d.text, r.asked_by
FROM domicile.releases r JOIN domicile.release_declarations d ON d.id = r.declaration
WHERE r.name = $1 AND r.revision = $2

-- name: releases
SELECT r.name, r.revision, r.lineage, r.state, r.reason, r.manifest, r.certificate, r.signature, r.receipt,
       r.pages_sent, d.text, r.asked_by
FROM domicile.releases r JOIN domicile.release_declarations d ON d.id = r.declaration
ORDER BY r.name, r.revision

-- name: releases_under_way
SELECT name, revision FROM domicile.releases WHERE state IN ('building', 'ready', 'sending') ORDER BY asked_at

-- name: lock_lineage
-- One release of a lineage ($1) is made at a time, to the end of the transaction.
SELECT pg_advisory_xact_lock(hashtextextended('domicile.release ' || $1, 0))

-- name: earlier_releases
-- Of a lineage ($1), those that have left or may have.
SELECT name, revision FROM domicile.releases WHERE lineage = $1 AND manifest IS NOT NULL ORDER BY name, revision

-- name: lineage_k
-- The greatest k that a release of a lineage ($1) was declared with.
SELECT coalesce(max((manifest::jsonb ->> 'least')::integer), 0) FROM domicile.releases
WHERE lineage = $1 AND manifest IS NOT NULL

-- name: other_lineage
-- Another lineage than $2 that releases of a name ($1) were made in.
SELECT lineage FROM domicile.releases WHERE name = $1 AND lineage <> $2 AND manifest IS NOT NULL LIMIT 1

-- name: release_members
SELECT person, class FROM domicile.release_members WHERE name = $1 AND revision = $2

-- name: make_release
-- Keep what was signed, once.
UPDATE domicile.releases SET state = 'ready', manifest = $3, certificate = $4, signature = $5
WHERE name = $1 AND revision = $2 AND state = 'building'

-- name: change_release
-- From state $3 to $4, for reason $5.
UPDATE domicile.releases SET state = $4, reason = $5 WHERE name = $1 AND revision = $2 AND state = $3

-- name: sent_pages
UPDATE domicile.releases SET pages_sent = greatest(pages_sent, $3) WHERE name = $1 AND revision = $2

-- name: release_page
SELECT body FROM domicile.release_pages WHERE name = $1 AND revision = $2 AND number = $3

-- name: accept_release
UPDATE domicile.releases SET state = 'accepted', receipt = $3 WHERE name = $1 AND revision = $2 AND state = 'sending'

-- name: forget_pages
DELETE FROM domicile.release_pages WHERE name = $1 AND revision = $2

-- name: offer
-- Keep what was offered, unless there is one of this name and revision.
INSERT INTO releases.arrivals (id, source, cell, name, revision, state, manifest, certificate, signature)
VALUES ($1, $2, $3, $4, $5, 'offered', $6, $7, $8) ON CONFLICT DO NOTHING

-- name: arrival
SELECT id, source, cell, name, revision, state, manifest, certificate, signature, receipt
FROM releases.arrivals WHERE id = $1

-- name: arrivals
SELECT id, source, cell, name, revision, state, manifest, certificate, signature, receipt
FROM releases.arrivals ORDER BY source, cell, name, revision

-- name: put_page
INSERT INTO releases.pages (id, number, body)
SELECT $1, $2, $3 WHERE EXISTS (SELECT FROM releases.arrivals WHERE id = $1 AND state = 'offered')
ON CONFLICT DO NOTHING

-- name: page_numbers
SELECT number FROM releases.pages WHERE id = $1

-- name: arrived_pages
SELECT body FROM releases.pages WHERE id = $1 ORDER BY number

-- name: lock_arrival
SELECT state, receipt FROM releases.arrivals WHERE id = $1 FOR UPDATE

-- name: accept_arrival
UPDATE releases.arrivals SET state = 'accepted', receipt = $2, accepted_at = clock_timestamp() WHERE id = $1

-- name: put_row
INSERT INTO releases.rows (id, number, row) VALUES ($1, $2, $3::jsonb)

-- name: drop_arrived_pages
DELETE FROM releases.pages WHERE id = $1

-- name: refuse_arrival
DELETE FROM releases.arrivals WHERE id = $1 AND state = 'offered'

-- name: released_rows
SELECT number, row::text FROM releases.rows WHERE id = $1 AND number > $2 ORDER BY number LIMIT $3
