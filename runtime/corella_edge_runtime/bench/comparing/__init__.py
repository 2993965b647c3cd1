"""Results against each other: verdicts with an exit code, and a fleet on one page."""
