"""Floor 2: predictions and truth to numbers. Sees no model and no data set."""
