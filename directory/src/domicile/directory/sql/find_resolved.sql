-- The answer to a batch of subject keys ($1), as the text of a ResolveResponse: written here, because a process that
-- made an object of each pin would take longer than the query.
SELECT json_build_object(
    'pins', coalesce(
        json_agg(
            json_build_object(
                'subject_key', encode(pin.subject_key, 'hex'), 'jurisdiction', pin.jurisdiction, 'cell', pin.cell,
                'epoch', pin.epoch, 'state', pin.state
            ) ORDER BY number
        ) FILTER (WHERE pin.subject_key IS NOT NULL), '[]'),
    'unknown', coalesce(
        json_agg(encode(wanted.subject_key, 'hex') ORDER BY number) FILTER (WHERE pin.subject_key IS NULL), '[]')
)::text AS body, count(*) = count(pin.subject_key) AS complete
FROM unnest($1::bytea[]) WITH ORDINALITY AS wanted (subject_key, number)
LEFT JOIN directory.pins AS pin USING (subject_key)
