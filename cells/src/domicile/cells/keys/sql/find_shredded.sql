-- The principals of a subject, or the one that is named, whose keys were destroyed.
SELECT principal FROM keys.shredded WHERE subject = $1 AND ($2::uuid IS NULL OR principal = $2)
