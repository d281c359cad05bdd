"""Search: which figures of a recipe give the least energy at the quality that is asked.

``space`` (what may be chosen) and ``target`` (what must be reached) -> ``pipeline`` (shared steps once, then trials) ->
``suggest`` (Optuna proposes) and ``fidelity`` (little training for all, full training for the promising) -> ``trial`` (carries
one choice out and measures it) -> ``front`` (what came of all) and ``picture``.
"""
