"""What the server that forks tests' processes imports once. A test process has one server: the first list counts."""

IMPORTED_BY_RUNS = [
    *("crossbreed.testing.fakes", "crossbreed.testing.digits", "crossbreed.fitness.engines.encoder"),
    *("crossbreed.runs.driver", "crossbreed.sources.opening"),
]
"""Without `crossbreed.kernels`: a forked child inherits none of its threads."""
