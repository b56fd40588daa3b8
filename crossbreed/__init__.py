"""Breeds merged language models: search over merge recipes, scored on your own items."""
