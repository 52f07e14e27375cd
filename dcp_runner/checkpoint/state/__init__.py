"""A state as data: a tree spec in JSON and named tensors, whatever object it came from and however it is sharded."""
