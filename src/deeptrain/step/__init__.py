"""How a model learns from one batch: the `Step` protocol and the steps that come with it."""
