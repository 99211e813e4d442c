"""Pictures of runs. matplotlib is imported where something is drawn."""
