"""The engine `lora_server`: vLLM's own OpenAI servers hold the base, and candidates are adapters that they load.

`settings` says how to reach them, `server` speaks to one, `engine` divides the work (docs/api.md).
"""
