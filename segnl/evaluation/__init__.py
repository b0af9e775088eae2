"""One way from a checkpoint to scores and masks."""
