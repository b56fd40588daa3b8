"""The search: the choice of the next candidate, and the loop that has it evaluated."""
