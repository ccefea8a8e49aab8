-- No key of this subject is ever made anew.
UPDATE keys.subjects SET destroyed = coalesce(destroyed, now()) WHERE subject = $1
