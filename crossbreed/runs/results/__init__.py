"""Results: the winner, its statistics, and reports."""
