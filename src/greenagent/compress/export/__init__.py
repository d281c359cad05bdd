"""Models written in the formats that engines read, and the check that engine and `transformers` then agree."""
