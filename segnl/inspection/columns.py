"""What the columns of a page's table mean, each in words for somebody who has not read the code."""

from segnl.inspection.page import Column

MIOU = Column(
    "mIoU %",
    "Mean over the classes of IoU: of all pixels that are a class in the truth, in the prediction or in both, the "
    "share that is in both. Higher is better; 100 is perfect.",
)
PIXEL_ACC = Column("Pixel accuracy %", "The share of all labelled pixels that is right; large classes dominate it.")
MEAN_ACC = Column(
    "Mean accuracy %", "The share of each class's pixels that was found, mean over the classes in the truth."
)
AMBIGUOUS = Column(
    "Ambiguous pairs %",
    "The share of pixels that are right on objects which only a far-away cue tells apart, mean over the pairs. About "
    "50 is guessing between a pair's two classes; what is clearly above it was read from the context.",
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

SCORES = {"miou": MIOU, "pixel_acc": PIXEL_ACC, "mean_acc": MEAN_ACC, "ambiguous": AMBIGUOUS}
COSTS = {"params": PARAMS, "gflops": GFLOPS, "speed": SPEED}
