"""Any state as a tree spec in JSON and named tensors, whichever object it is of and however it is sharded."""
