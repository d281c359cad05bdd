"""Sparsity sets weights to zero and keeps them there. It removes no structure, as pruning does, and our engines skip no zeros."""
