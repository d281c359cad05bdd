"""Tiny students: word embeddings with a light mixer, in a file of some ten to some hundred kilobytes, run by numpy alone."""
