"""The shell commands of `dcp-runner`: one module for each kind, listed in `program`."""
