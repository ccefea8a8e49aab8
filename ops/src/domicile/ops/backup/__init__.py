"""Backups of a jurisdiction's databases: taken, kept inside it, verified, and restored to a point in time."""
