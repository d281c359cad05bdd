"""Tiny students: a model of some ten to some hundred kilobytes that chooses as a much larger teacher does."""
