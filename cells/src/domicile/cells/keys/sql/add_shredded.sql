-- Principals whose key is never made anew.
INSERT INTO keys.shredded (subject, principal) SELECT $1, unnest($2::uuid[]) ON CONFLICT DO NOTHING
