"""Scores beside mIoU that `eval.metrics` names, a file each: one number from a confusion matrix."""
