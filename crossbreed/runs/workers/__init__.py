"""Workers: the processes that materialize and evaluate candidates, and the pools that keep them running."""
