"""Evaluation and prediction: from a checkpoint to scores and masks."""
