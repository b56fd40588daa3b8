"""The stages of a run: their names, the searches that begin one after another, and what each has given."""
