"""What every package may use, and what imports none of them: errors, folders, signals, ranks, text for people."""
