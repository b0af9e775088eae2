"""Floor 1: what the numbers in a label file mean. Pure data, no torch."""
