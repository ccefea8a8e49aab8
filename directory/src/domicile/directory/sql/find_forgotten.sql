-- The peppers that were forgotten.
SELECT version
FROM directory.peppers
WHERE forgotten IS NOT NULL
ORDER BY version
