"""Data sets: pairs of files, training crops, batches."""
