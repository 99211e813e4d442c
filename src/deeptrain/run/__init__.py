"""A run's place on disk: its directory and lock, its record, and whether a script still fits it."""
