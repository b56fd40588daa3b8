"""For people who extend crossbreed, and its own tests: conformance suites, fakes, tiny real models, known optima."""
