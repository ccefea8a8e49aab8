-- What is named by each pepper's keys.
SELECT
    peppers.version, coalesce(pins.live, 0) AS pins, coalesce(pins.tombstones, 0) AS tombstones,
    coalesce(aliases.count, 0) AS aliases, forgotten IS NOT NULL AS forgotten
FROM directory.peppers AS peppers
LEFT JOIN (
    SELECT
        get_byte(subject_key, 0) AS version,
        count(*) FILTER (WHERE state <> 'erased') AS live, count(*) FILTER (WHERE state = 'erased') AS tombstones
    FROM directory.pins GROUP BY 1
) AS pins USING (version)
LEFT JOIN (
    SELECT get_byte(alias_key, 0) AS version, count(*) FROM directory.aliases GROUP BY 1
) AS aliases USING (version)
ORDER BY version
