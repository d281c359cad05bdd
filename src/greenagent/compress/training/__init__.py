"""How steps that train do it: examples to rows on disk, batches, the loop with its checkpoints, one process or several."""
