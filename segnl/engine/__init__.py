"""Floor 3: the only place where models, data and metrics meet."""
