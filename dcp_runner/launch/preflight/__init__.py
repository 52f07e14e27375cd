"""Everything before a rank starts: the command line, the configuration, what it builds, and where it writes."""
