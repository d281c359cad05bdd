"""A cascade: the cheapest tier that is sure enough answers, and a certificate says how much quality that may lose.

`run` is ``greenagent certify``: `ask` lets every tier answer every labelled example as the gateway would (`answers` holds what
they said), `certified` splits the examples in three: on the first `path` orders thresholds from the strictest to the loosest, on
the second `certificate` tests them in that order (Learn then Test), and the third, unseen by both, reports. A `look` at a query
tells whom it is worth asking (`glance`, while serving). `shadow` and `watch` go on testing while a cascade serves. Who is asked
and who answers a request: `greenagent.serve.tiers`.
"""
