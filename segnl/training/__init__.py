"""Training: the trainer, its step, and what is around it."""
