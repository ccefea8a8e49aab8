-- What each cell has told so far.
SELECT jurisdiction, cell, last_key, fences, contradictions, superseded, done
FROM directory.reports
ORDER BY cell
