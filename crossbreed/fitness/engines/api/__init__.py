"""The engine `api`: candidates behind a service that keeps the weights to itself (docs/api.md).

`transport` speaks to any server of OpenAI's words: one retry loop, a circuit breaker, limits of pace. `completions`
reads what comes back, and believes nothing of it. Neither needs torch, transformers or a tokenizer.
"""
