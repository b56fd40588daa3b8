"""Parts for crossbreed that are no part of crossbreed."""
