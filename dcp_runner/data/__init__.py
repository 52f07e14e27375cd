"""The training data as each rank gets it."""
