"""The checkpoint core. A module imports only what is below it in this list:

coordinator        the public entry point: saves and loads all components of a run
saving | loading   one save | one load
bind               the components in a topology, as one rank sees them
files | sync       what is on disk | how the ranks agree on the outcome of a phase
state              any state as a tree spec and named tensors
retention          which checkpoints to keep
digest             digests of bytes and tensors
component, stateful, sharing, topology, config, errors     plain data: no torch, no files
"""
