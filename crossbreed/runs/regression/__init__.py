"""A regression that walks over the layers: each matrix is fitted to what the merge itself feeds it."""
