"""The configuration of a run: its typed schema, the way from Hydra's DictConfig to it, and what changed in it."""
