"""Loggers: sinks that a run's figures, hyperparameters, pictures and interventions are sent to. See `Loggers`."""
