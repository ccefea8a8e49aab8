-- name: standby_age
-- For how many seconds this standby may be out of date: since the last commit that it replayed. NULL where it leads.
SELECT CASE WHEN pg_is_in_recovery()
    THEN coalesce(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), 'infinity')::float8 END

-- name: read_fence
-- The fence of a subject ($1), for the application's role.
SELECT subject_key, internal_id, epoch, state FROM domicile.read_fence($1)

-- name: fence
-- The fence of a subject ($1), by its key or the one before, for the gateway's role.
SELECT subject_key, internal_id, epoch, state FROM domicile.fences WHERE subject_key = $1 OR previous_key = $1

-- name: incarnation
-- Which incarnation of the cell this database is.
SELECT incarnation FROM domicile.cell

-- name: open_fence
-- Open the fence of a subject ($1) on a grant for cell $2 of $3, incarnation $4, epoch $5; keep aliases $6.
SELECT subject_key, internal_id, epoch, state FROM domicile.open_fence($1, $2, $3, $4, $5, $6)

-- name: rekey_fence
-- Name a subject ($1) by another key ($2), and its aliases ($3) by others.
SELECT subject_key, internal_id, epoch, state FROM domicile.rekey_fence($1, $2, $3)

-- name: intend
-- Say that the fence of a subject ($1), open at epoch $2, is to be closed within so many seconds ($3).
SELECT domicile.intend($1, $2, $3)

-- name: close_fence
-- Close the fence of a subject ($1) that is open at epoch $2.
SELECT subject_key, internal_id, epoch, state FROM domicile.close_fence($1, $2)

-- name: end_writers
-- End those writers of a subject ($1) that process $2 waits for, for so many seconds ($3); how many.
SELECT domicile.end_writers($1, $2, $3)

-- name: give_up
-- Forget that the fence of a subject ($1) was to be closed.
SELECT domicile.give_up($1)

-- name: lock_for
-- How long this transaction waits for a lock ($1, such as 2s); by which process it runs.
SELECT pg_backend_pid() FROM set_config('lock_timeout', $1, true)

-- name: forget_previous
-- Forget the keys by which subjects were named under a pepper ($1) before.
SELECT domicile.forget_previous($1)

-- name: note_session
-- Keep that somebody reads across subjects, for a purpose ($1).
INSERT INTO domicile.cell_sessions (purpose) VALUES ($1)

-- name: shareable_columns
-- Every column of a record table ($1).
SELECT column_name, class, category, sql_type FROM domicile.columns WHERE table_name = $1 ORDER BY column_name

-- name: recorded_columns
-- What each field of a record table ($1) is, in the order of their names; as JSON, what came later.
SELECT column_name, class, category, sealed, find,
       coalesce((to_jsonb(c) ->> 'optional')::boolean, nullable), kind, to_jsonb(c) ->> 'given',
       to_jsonb(c) ->> 'rules'
FROM domicile.columns c WHERE table_name = $1 ORDER BY column_name

-- name: limit_to_subject
-- Limit the transaction to a subject ($1, hexadecimal).
SELECT set_config('domicile.subject', $1, true)

-- name: fences_after
-- The next fences after a key ($1), at most $2 of them.
SELECT subject_key, previous_key, epoch, state, alias_keys
FROM domicile.fences
WHERE subject_key > $1
ORDER BY subject_key
LIMIT $2

-- name: recall
-- What was answered to a subject ($1), open at epoch $2, under an idempotency key ($3) for a request ($4).
SELECT domicile.recall($1, $2, $3, $4)

-- name: remember
-- Keep what is answered ($3) to a subject ($1) under an idempotency key ($2).
SELECT domicile.remember($1, $2, $3)

-- name: sweep
-- Delete rows whose time is over, at most $1 of each table.
SELECT domicile.sweep($1)

-- name: fence_of
-- The fence of a subject by its internal id ($1), for the gateway's role.
SELECT subject_key, internal_id, epoch, state FROM domicile.fences WHERE internal_id = $1

-- name: announce_keys
-- Say that rows of a subject ($1, internal id) may lie under keys of a generation ($2).
SELECT domicile.announce_keys($1, $2)

-- name: withdraw_keys
-- Let keys of a subject ($1, internal id) from before a generation ($2) write no more.
SELECT domicile.withdraw_keys($1, $2)

-- name: announce_index
-- Say that rows may lie under an index secret of the cell of a generation ($1).
SELECT domicile.announce_index($1)

-- name: withdraw_index
-- Let an index secret of the cell from before a generation ($1) write no more.
SELECT domicile.withdraw_index($1)

-- name: settle_index
-- The same for who writes for a subject ($1, internal id) already, generation $2.
SELECT domicile.settle_index($1, $2)

-- name: index_turned
-- All rows of a subject ($1, internal id) are under the cell's index secret of a generation ($2).
SELECT domicile.index_turned($1, $2)

-- name: index_due
-- Subjects whose rows may be under an index secret of before a generation ($1), after a key ($2), at most $3 of them.
SELECT subject_key, internal_id, epoch, state FROM domicile.fences
WHERE turned_index < $1 AND state <> 'retired' AND subject_key > $2
ORDER BY subject_key
LIMIT $3

-- name: count_index_due
-- How many those are.
SELECT count(*) FROM domicile.fences WHERE turned_index < $1 AND state <> 'retired'

-- name: record_tables
-- Every table of a class of records.
SELECT DISTINCT table_name FROM domicile.columns ORDER BY table_name

-- name: begin_restored
-- Close every fence of a restored database, which is as of a moment ($1); how many those were.
SELECT domicile.begin_restored($1)

-- name: unsettled
-- Subjects whose fence a restore closed, after a key ($1), at most $2 of them.
SELECT f.subject_key, f.epoch
FROM domicile.unsettled u JOIN domicile.fences f ON f.internal_id = u.subject
WHERE f.subject_key > $1
ORDER BY f.subject_key
LIMIT $2

-- name: settle
-- Settle a subject's fence ($1) in incarnation $2 at epoch $3 as was judged ($4).
SELECT domicile.settle($1, $2, $3, $4)

-- name: end_restored
-- How many fences a restore closed that are not settled.
SELECT domicile.end_restored()

-- name: last_restore
-- What became of the last restore's fences; no row where there was none.
SELECT restored_at, upto, fences, reopened, behind, moved, erased, unclear, rows_gone, ended,
    (SELECT count(*) FROM domicile.unsettled) AS remaining
FROM domicile.restores
ORDER BY id DESC
LIMIT 1

-- name: held_keys
-- Subjects that this cell holds, whatever state their fence is in, after a key ($1), at most $2 of them.
SELECT subject_key FROM domicile.fences WHERE subject_key > $1 ORDER BY subject_key LIMIT $2

-- name: erase_subject
-- Retire the fence of a subject ($1), open at epoch $2, and delete all that is stored for it.
SELECT * FROM domicile.erase_subject($1, $2)

-- name: shred_principal
-- Delete the rows of a subject ($1), open at epoch $2, that are about a principal ($3).
SELECT * FROM domicile.shred_principal($1, $2, $3)

-- name: last_erasure
-- The last erasure of a subject ($1).
SELECT * FROM domicile.last_erasure($1)

-- name: erasures_under_way
-- Erasures without a receipt, at most $1.
SELECT * FROM domicile.erasures_under_way($1)

-- name: keep_receipt
-- Keep the receipt ($2) of an erasure ($1) and the key that it was signed by ($3), unless there is one.
SELECT * FROM domicile.keep_receipt($1, $2, $3)

-- name: forget_answers
-- Forget answers under idempotency keys that nobody has asked for in a week, at most $1.
SELECT domicile.forget_answers($1)

-- name: name_sources
-- Say which cell writes each reference table ($1, JSON).
SELECT domicile.name_sources($1)

-- name: reference_page
-- Of a reference table ($1) that this cell writes, unless version $2 is its last: rows behind $3, at most $4 and $5 bytes.
SELECT * FROM domicile.reference_page($1, $2, $3, $4, $5)

-- name: begin_pull
-- Begin to take from a cell ($2) a reference table's ($1) version $3 with digest $4, content $5, $6 rows and fields $7.
SELECT domicile.begin_pull($1, $2, $3, $4, $5, $6, $7)

-- name: keep_page
-- Keep a page ($4) behind $3 rows of a reference table's ($1) version $2.
SELECT domicile.keep_page($1, $2, $3, $4)

-- name: take_reference
-- Let a reference table ($1) be what was pulled of version $2.
SELECT domicile.take_reference($1, $2)

-- name: drop_pull
-- Give up what was pulled of a reference table ($1) and not taken.
SELECT domicile.drop_pull($1)

-- name: hear_reference
-- Keep that the cell ($2) that writes a reference table ($1) has version $3.
SELECT domicile.hear_reference($1, $2, $3)

-- name: reference_states
-- What is here of each reference table.
SELECT * FROM domicile.reference_states()
