"""Records: the journal, the state folded from it, and the run folder."""
