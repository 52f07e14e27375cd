"""The checkpoint core. An import points down in this list, never up:

coordinator                    save and load of all components
saving, loading                one save, one load
bind                           components in a topology, seen from one rank
files | sync                   what lies on disk | how ranks agree
state                          a state as names and tensors
retention, digest              which checkpoints stay | digests of bytes and tensors
component, stateful, sharing, topology, config, errors     pure: no torch, no files
"""
