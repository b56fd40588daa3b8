"""Linear algebra with the same bits on any number of threads."""
