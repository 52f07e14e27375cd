"""The topologies: how each wraps a model and takes a step."""
