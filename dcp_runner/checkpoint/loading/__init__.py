"""A load, from a checkpoint to live objects. Nothing is changed before every rank has read and checked everything."""
