"""Distillation: the teacher's signals (``signals``), the objectives (``losses``) and the step (``step``)."""
