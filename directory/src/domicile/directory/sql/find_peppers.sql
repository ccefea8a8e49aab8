-- The peppers whose keys name somebody, or may.
SELECT version
FROM directory.peppers
WHERE forgotten IS NULL
ORDER BY version
