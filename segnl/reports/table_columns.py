"""Columns of a page's table, each with an explanation for readers who have not seen the code."""

from segnl.reports.page import Column

SCORES = {
    "miou": Column(
        "mIoU %",
        "Mean over the classes of IoU: of all pixels that have a class in the label, in the prediction or in both, "
        "the percentage that has it in both. Higher is better; 100 is perfect.",
    ),
    "pixel_acc": Column(
        "Pixel accuracy %", "The percentage of all labelled pixels that is correct; large classes dominate it."
    ),
    "mean_acc": Column(
        "Mean accuracy %",
        "The percentage of each class's labelled pixels that is correct, mean over the classes in the labels.",
    ),
    "ambiguous": Column(
        "Ambiguous pairs %",
        "The percentage of correct pixels on objects that only a distant cue tells apart, mean over the pairs. About "
        "50 is guessing between a pair's two classes; a clearly higher value was read from the context.",
    ),
}
"""By the key in a run's metrics.json."""

OF_HEAD = {
    "miou_mean": SCORES["miou"],
    "boundary_iou": Column(
        "Boundary IoU %",
        "The same as mIoU, but for boundaries alone: for each class, only pixels within 0.5 % of the image's diagonal "
        "from the edge of its area count. It falls where edges are blurred, which mIoU hardly shows. Higher is "
        "better.",
    ),
    "ambiguous_acc": SCORES["ambiguous"],
    "matched_channels": Column(
        "Head channels",
        "Width of the head, chosen so that the sizes of the networks agree; in brackets the remaining difference from "
        "the target in parameters or GFLOPs, whichever was matched.",
    ),
    "steps": Column("Steps", "Length of the training; this study varies it, so its scores compare lengths too."),
    "params": Column(
        "Parameters",
        "Learned numbers of the network at prediction, without the auxiliary head of training. Fewer is cheaper.",
    ),
    "gflops": Column(
        "GFLOPs",
        "Billions of operations to predict one image of the size of a training crop; a multiplication with its "
        "addition counts as two. Fewer is cheaper.",
    ),
    "train_images_per_s": Column(
        "Training images/s",
        "Images per second in training on this machine, the median over the steps. Higher is faster; a measurement, "
        "which varies with the other load of the machine.",
    ),
    "latency_ms": Column(
        "Latency ms",
        "Milliseconds to predict one image of the size of a training crop on this machine: the median of passes in "
        "which the heads take turns. Lower is faster; a measurement, imprecise while the machine has other work.",
    ),
    "peak_mib": Column(
        "Peak MiB",
        "Memory for a training step on one such image (forward and backward), in addition to weights and gradients. "
        "Lower is cheaper.",
    ),
}
"""By the key of a head in a study's compare.json."""
