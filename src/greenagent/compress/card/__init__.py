"""What a finished model's card says: quality, slices and payback beside its teacher, steps, data used; in JSON and in words."""
