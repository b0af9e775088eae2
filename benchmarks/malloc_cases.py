"""The training step of the benchmark of malloc; see malloc.py."""

import resource
import time
from collections.abc import Callable

import torch
from timing import Case

CLASSES = 19


def build(contestant: str, case: Case) -> Callable[[], object]:
    """case: head, hw, batch, precision (bf16: channels_last too).

    contestant: `default`, or `kept` for freed memory that stays in the process.
    """
    from segnl.core.memory import keep_freed_memory
    from segnl.data.sample import Batch
    from segnl.runs.build import build_model
    from segnl.runs.recipe import compose
    from segnl.training.trainer import Trainer

    if contestant == "kept":
        keep_freed_memory()
    precision, is_half = case["precision"], case["precision"] != "float32"
    backbone = {"name": "resnet", "depth": 18, "output_stride": 8}
    mapping = {
        "model": {"backbone": backbone, "head": {"name": case["head"], "channels": 128}, "aux": {"channels": 64}},
        "data": {"name": "cityscapes", "root": "none", "crop_hw": case["hw"]},
        "train": {"max_steps": 1000, "batch_size": case["batch"], "precision": precision, "channels_last": is_half},
        "optim": {"name": "sgd", "lr": 0.01},
        "schedule": {"name": "poly"},
        "loss": {"name": "cross_entropy"},
    }
    recipe = compose(mapping, file="benchmark")
    torch.manual_seed(0)
    trainer = Trainer(recipe, build_model(recipe, CLASSES, is_new=True), torch.device("cpu"))
    image = torch.randint(0, 256, (case["batch"], 3, *case["hw"]), dtype=torch.uint8)
    label = torch.randint(0, CLASSES, (case["batch"], *case["hw"]))
    batch = Batch(image, label, ["random"] * case["batch"])

    def step() -> dict[str, float]:
        before = time.process_time()
        trainer.step(batch)
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"cpu_s": time.process_time() - before, "peak_mib": peak_kib / 1024}

    return step
