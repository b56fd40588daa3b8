"""Services that are asked over HTTP in OpenAI's words: engines behind an API, and judges of texts.

`settings` says where a service is and how patiently to ask; `transport` speaks to it: one retry loop, a circuit
breaker, limits of pace. `appending` keeps what was answered, `begun` notices a service that has become another one.
Only `transport` imports the client.
"""
