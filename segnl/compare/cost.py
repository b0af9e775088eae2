"""What a network costs, as a study's table shows it: parameters, FLOPs of one crop, speed of its training."""

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

from segnl.core.config import Tree
from segnl.core.files import write_atomic
from segnl.core.runlog import read_log
from segnl.engine.cost import network_counts
from segnl.engine.recipe import Recipe

FILE = "cost.json"
WARM_UP = 5  # steps at each start of a training, in which caches fill and workers begin


@dataclass(frozen=True)
class Cost:
    """params: of the network as it predicts; the auxiliary head, which only training has, does not count.

    gflops: billions of operations to predict one crop, a multiplication and its addition counted as two; convolutions
    and matrix products are counted, norms, activations and softmax are not.
    """

    params: int
    gflops: float


def cost_of(recipe: Recipe, num_classes: int, run: Path) -> Cost:
    """Kept in the run's folder: the counter brings in torch's compiler, whose import alone takes seconds."""
    belongs_to: Tree = json.loads(
        json.dumps({"model": recipe.tree()["model"], "hw": recipe.data.crop_hw, "classes": num_classes})
    )
    try:
        tree = json.loads((run / FILE).read_text(encoding="utf-8"))
        if tree["belongs_to"] == belongs_to:
            return Cost(tree["params"], tree["gflops"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there yet, or of an earlier version
    cost = Cost(*network_counts(recipe, num_classes, recipe.data.crop_hw))
    write_atomic(run / FILE, json.dumps(asdict(cost) | {"belongs_to": belongs_to}).encode())
    return cost


def train_images_per_s(run: Path) -> float | None:
    """The median over the steps of a run's log, without the first of each start; None where it has too few."""
    rates: list[float] = []
    since_start = 0
    for line in read_log(run / "log.jsonl"):
        if line.get("event") == "start":
            since_start = 0
        elif "images_per_s" in line:
            since_start += 1
            if since_start > WARM_UP:
                rates.append(float(line["images_per_s"]))
    return statistics.median(rates) if rates else None
