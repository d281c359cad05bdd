"""Serving: an OpenAI-compatible gateway that knows what every request cost, and a load generator.

A request walks `request` (what may be asked; `tools_memo`) -> `dialect` (how it is put to this model; `toolset`, `schemas`,
`grammar`) -> `metered` (an engine, charged to `accounts`: joules per request) -> `generation` with `answer` (text to content
and tool calls, the committed record; `patient` keeps what cannot be written yet) -> `wire` (OpenAI's bytes; `streaming`).
`gateway` holds them together behind HTTP, `server` runs it (sockets, signals, idle joules), `keys`, `problems` and
`telemetry` are what their names say. `bench` asks any OpenAI endpoint and reports speed and joules; it needs none of the
others. `local` runs a gateway of one's own for a while.

`cascade` has what a certificate of several tiers needs: thresholds, their test, and the watch over them; no gateway uses it yet.

Not here: budgets. Importing this package loads nothing heavy.
"""
