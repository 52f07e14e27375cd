"""From a command line to ranks that run, and from their ends to one exit code."""
