"""The metric `judge`: another model, asked what it thinks of a text.

`settings` is what a spec says of it (`metric` makes a metric of that), `reading` finds the verdict in what it writes,
`asking` asks it and keeps what it said. What it does not say is an abstention, which is counted, and never a value.
"""
