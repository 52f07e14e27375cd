"""The strategies: how each kind of parallelism wraps a model and runs a step."""
