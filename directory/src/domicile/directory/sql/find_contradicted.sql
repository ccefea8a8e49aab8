-- Lines that say something else than the pin that stands, at its epoch or a lower one: the first, and how many.
SELECT count(*) AS count, (array_agg(line ORDER BY line))[1:5] AS lines
FROM incoming
JOIN directory.pins AS pin USING (subject_key)
WHERE (pin.jurisdiction, pin.cell, pin.epoch, pin.state)
    <> (incoming.jurisdiction, incoming.cell, incoming.epoch, incoming.state)
