"""Other people's loaders and loggers, taken as they are."""
