"""A model and a loss to try things with."""
