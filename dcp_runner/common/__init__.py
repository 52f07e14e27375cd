"""What every room may use, and what knows none of them: errors, folders, signals, ranks, text for people."""
