"""The ground floor: words every room shares. Standard library and pydantic only.

Rooms import from the modules here (``greenagent.core.records`` and so on), so that each file says what it uses:
`errors`, `clock`, `units`, `provenance`, `calls` (tools and compact calls), `interface` (how to talk to a model),
`records` (activity, card), `engine` (requests, tokens, steps), `protocols` (sensor, signal), `atomic` (files that are whole or
absent).
"""
