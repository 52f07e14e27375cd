"""From a command line to running ranks, and from their exits to one exit code."""
