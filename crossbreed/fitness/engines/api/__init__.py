"""The engine `api`: candidates behind a service that keeps the weights to itself (docs/api.md).

`crossbreed.fitness.services` speaks to it; `completions` reads what comes back, and believes nothing of it. Neither
needs torch, transformers or a tokenizer.
"""
