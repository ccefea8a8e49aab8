-- Which of these (subject, principal) had their key destroyed.
SELECT subject, principal
FROM unnest($1::uuid[], $2::uuid[]) AS wanted (subject, principal)
WHERE EXISTS (SELECT FROM keys.shredded s WHERE s.subject = wanted.subject AND s.principal = wanted.principal)
   OR EXISTS (SELECT FROM keys.subjects s WHERE s.subject = wanted.subject AND s.destroyed IS NOT NULL)
