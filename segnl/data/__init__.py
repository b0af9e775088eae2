"""Reading data sets: pairs of files, crops, batches."""
