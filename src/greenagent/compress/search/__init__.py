"""Search: which figures of a recipe give the least energy at the quality that is asked.

``space`` (what may be chosen) and ``target`` (what must be reached) -> ``pipeline`` (shared steps once, then trials) ->
``suggest`` (Optuna proposes) and ``fidelity`` (little training for all, full training for the promising) -> ``trial`` (carries
one choice out and measures it) -> ``rounds`` (what a request costs on fully trained ones, measured in turns) -> ``front`` (what
came of all), ``held_out`` (what other splits say of it) and ``picture``. ``own`` takes to the ledger what no step has spent.
"""
