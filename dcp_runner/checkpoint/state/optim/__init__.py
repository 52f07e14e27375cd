"""The state of an optimizer by the names of its parameters, whatever its class and however it is sharded."""
