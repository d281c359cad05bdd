"""Quantization: the step (``step``) writes the formats that engines serve; the writers are in ``export/``."""
