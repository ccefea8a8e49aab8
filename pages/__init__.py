"""What makes the site: the reference from code, the recording, the generator's hook. Nothing of it is deployed."""
