-- Makes this transaction's COMMIT wait for the standbys, though it changed nothing: what it read may be there by a
-- commit that did not wait to its end.
SELECT pg_logical_emit_message(true, 'domicile', '')
