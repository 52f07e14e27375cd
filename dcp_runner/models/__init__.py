"""A model and a loss for trying things out."""
