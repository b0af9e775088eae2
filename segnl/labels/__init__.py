"""Class tables of data sets: the meaning of the ids in label files. Imports no torch."""
