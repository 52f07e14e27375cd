"""A model and a loss for experimenting; they import nothing else of this project."""
