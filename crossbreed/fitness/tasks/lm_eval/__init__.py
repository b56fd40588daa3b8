"""Tasks of lm-evaluation-harness: its documents, prompts, filters and scoring, answered by our engines.

`harness` loads tasks by name and says what is wrong with them, `documents` builds the documents of a task once,
`asking` turns lm-eval's requests into ours, in the tokens that lm-eval would ask, and `metrics` says which of its
metrics have a value for each document, `scoring` how one is found, `figures` what only all documents together have,
and `loaded` keeps what a process has loaded. `config` has the settings.

lm-eval's own evaluation is not used: its caches know nothing of weights, and it seeds the global generators.
"""
