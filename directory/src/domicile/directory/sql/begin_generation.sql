-- Begin a generation after the one that was seen ($1); $2: something is lost, $3: the topology's revision seen.
SELECT directory.begin_generation($1, $2, $3)
