"""Which examples later steps train on: without near-duplicates (``duplicates``), and a share of the rest that teaches most.

What teaches most is what the teacher is unsure of (``uncertainty``), or what stands for many others (``coverage``, over
``vectors``). The step (``step``) leaves the numbers of what it kept (``kept``), so that a resumed run trains on the same.
"""
