-- Begin a new generation where this is another history of the database.
SELECT directory.renew()
