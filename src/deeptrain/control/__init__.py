"""How a run is steered from outside: signals, requests, the journal."""
