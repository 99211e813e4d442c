"""The state of a run: counters, cadences, random streams, history, and the tree that holds all of it."""
