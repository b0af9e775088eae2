"""What the columns of a page's table mean, each in words for somebody who has not read the code."""

from segnl.reports.page import Column

MIOU = Column(
    "mIoU %",
    "Mean over the classes of IoU: of all pixels that are a class in the truth, in the prediction or in both, the "
    "share that is in both. Higher is better; 100 is perfect.",
)
PIXEL_ACC = Column("Pixel accuracy %", "The share of all labelled pixels that is right; large classes dominate it.")
MEAN_ACC = Column(
    "Mean accuracy %", "The share of each class's pixels that was found, mean over the classes in the truth."
)
BOUNDARY = Column(
    "Boundary IoU %",
    "The same as mIoU, but of boundaries alone: of each class only the pixels within 0.5 % of the image's diagonal of "
    "the edge of its area count. It falls where edges are blurred, which mIoU hardly notices. Higher is better.",
)
AMBIGUOUS = Column(
    "Ambiguous pairs %",
    "The share of pixels that are right on objects which only a far-away cue tells apart, mean over the pairs. About "
    "50 is guessing between a pair's two classes; what is clearly above it was read from the context.",
)
WIDTH = Column(
    "Head channels",
    "Width of the head, solved for so that the sizes of the networks agree; in brackets by how much this one still "
    "differs from the target in what was matched, parameters or GFLOPs.",
)
PARAMS = Column(
    "Parameters",
    "Learned numbers of the network that predicts, without the training's auxiliary head. Fewer is cheaper.",
)
GFLOPS = Column(
    "GFLOPs",
    "Billions of operations to predict one image of the training crop's size; a multiplication with its addition "
    "counts as two. Fewer is cheaper.",
)
SPEED = Column(
    "Training images/s",
    "Images learned from in a second on this machine, the median over the steps. Higher is faster; a measurement, "
    "which varies with what else the machine does.",
)

LATENCY = Column(
    "Latency ms",
    "Milliseconds to predict one image of the training crop's size on this machine: the median of passes in which the "
    "heads take turns. Lower is faster; a measurement, rough where the machine does other work.",
)
MEMORY = Column(
    "Peak MiB",
    "Memory that one such image takes while the network learns from it (forward and backward), above weights and "
    "gradients. Lower is cheaper.",
)

SCORES = {"miou": MIOU, "pixel_acc": PIXEL_ACC, "mean_acc": MEAN_ACC, "ambiguous": AMBIGUOUS}
COSTS = {"params": PARAMS, "gflops": GFLOPS, "speed": SPEED, "latency": LATENCY, "memory": MEMORY}
