-- Subjects of a running rotation that have old keys, and which generation theirs are to be: the one that was begun, if any.
SELECT k.subject, max(k.generation) FILTER (WHERE k.created < r.started) + 1 AS generation
FROM keys.rotations r
JOIN keys.data_keys k ON k.cell = r.cell
WHERE r.cell = $1 AND r.running AND ($2::uuid IS NULL OR k.subject > $2)
GROUP BY k.subject
HAVING bool_or(k.created < r.started)
ORDER BY k.subject LIMIT $3
