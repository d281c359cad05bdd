"""Compression: one recipe turns a teacher into a smaller, greener model, every step metered.

``recipe`` (what to do) -> ``pipeline`` (does it, resumes it) -> steps: ``fine_tune``, ``synthesize/``, ``select/``, ``prune/``,
``sparsify/``, ``codes`` (one token an answer), ``distill/``, ``classify/`` (students that choose), ``quantize/`` -> ``export/``
(GGUF, agreement with the engine) -> ``serving`` (what a request costs) -> ``compare`` (with the teacher) -> ``card`` (what came
of it). Every step is ``candidate -> candidate``. ``search/`` finds the figures that a recipe leaves open.
"""
