"""Floor 5: a study, from its plan to its table."""
