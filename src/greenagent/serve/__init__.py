"""Serving: an OpenAI-compatible gateway that knows what every request cost, and a load generator.

A request walks `api` (OpenAI's endpoints: each reads requests and writes answers; `body`, `request` and `tools_memo` for what
may be asked, `wire` for what all have in common) -> `planner` with `dialect` (how it is put to each tier's model; `toolset`,
`schemas`, `grammar`) -> `metered` (an engine, charged to `accounts`: joules per request) -> `generation` with its `choice`s and
`answer` (text to content and tool calls, the committed record; `patient` keeps what cannot be written yet) -> `api` again
(`streaming`). `gateway` holds them together, `server` runs it (sockets, signals, idle joules), `keys`, `problems` and
`telemetry` are what their names say. `bench` asks any OpenAI endpoint and reports speed and joules; it needs none of the
others. `local` runs a gateway of one's own for a while.

`cascade` has what a certificate of several tiers needs: thresholds, their test, and the watch over them; no gateway uses it yet.

Not here: budgets. Importing this package loads nothing heavy.
"""
