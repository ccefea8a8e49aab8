"""Rehearsed failures with a measured verdict: what is broken, under which load, what came of it, and the way back."""
