"""Statistics of a comparison: intervals and p values of the differences between heads. Imports no torch.

Read in this order: `contributions` (an image's contribution to mIoU), `variance` (through seeds and images),
`comparison` (`compare_heads`), `planning` (looks, seeds still needed), `references` (other intervals, beside ours).
docs/statistics.md explains the method; benchmarks/calibrate.py and benchmarks/attack.py measure it.

Legend: s runs of one head with different seeds, n images or groups of images, k classes, m measures (the mIoU, or the
classes). Scores and differences are fractions, not points.
"""
