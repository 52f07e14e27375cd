"""A save, from live objects to a committed checkpoint."""
