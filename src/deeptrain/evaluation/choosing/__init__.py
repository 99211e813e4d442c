"""Best subsets of batches, and ensembles of models."""
