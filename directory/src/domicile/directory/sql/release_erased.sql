-- What was an alias of one of these ($1) who turns out to be erased is anybody's: a restored database holds it again.
DELETE FROM directory.aliases AS alias
USING directory.pins AS pin
WHERE alias.subject_key = ANY ($1::bytea[]) AND pin.subject_key = alias.subject_key AND pin.state = 'erased'
