"""A cascade: the cheapest tier that is sure enough answers, and a certificate says how much quality that may lose.

`answers` holds what tiers said to labelled examples; `path` orders thresholds from the strictest to the loosest, on examples
of its own; `certificate` tests them in that order on others (Learn then Test); `watch` goes on testing while the cascade
serves.
"""
