"""Before a run: the range of learning rates, the largest batch that fits, and a dry run. All leave everything as it was."""
