"""Encoders of the BERT family with a head that scores the choices of a task."""
