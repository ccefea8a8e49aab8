-- The first subject key that stands in two lines.
SELECT min(line) AS first, max(line) AS second
FROM incoming
GROUP BY subject_key
HAVING count(*) > 1
ORDER BY second
LIMIT 1
