"""Five of timm's networks under six heads: training step, evaluation, resume, cost, ONNX export; a table of each.

./run.sh extra timm && ./run.sh extra export && ./run.sh bench timm_matrix [--model NAME] [--head NAME]

Random weights, synthetic streets of 64x128 pixels, crops of 64x97. Every cell is `ok` or the line of the error.
`resume`: a run that was stopped after step 1 ends with the weights of one that was not. `export`: onnxruntime gives the
network's labels. The table is printed in Markdown.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from segnl.convert.export import export  # noqa: E402  the path comes first
from segnl.core.config import JSONDict  # noqa: E402
from segnl.core.errors import SegnlError  # noqa: E402
from segnl.evaluation.evaluate_run import EvaluationRequest, evaluate_run  # noqa: E402
from segnl.profiling.cost import cost  # noqa: E402
from segnl.runs.checkpoint import checkpoints_of, open_checkpoint  # noqa: E402
from segnl.runs.recipe import Recipe, compose  # noqa: E402
from segnl.runs.run import open_run  # noqa: E402
from segnl.streets.files import generate  # noqa: E402
from segnl.training.fit import fit  # noqa: E402

BACKBONES: dict[str, JSONDict] = {
    "convnext_tiny": {},
    "resnet50d": {"output_stride": 8},
    "vit_small_patch16_dinov3": {},
    "swin_tiny_patch4_window7_224": {},
    "efficientnet_b0": {},
}
HEADS = ("fcn", "aspp", "non_local", "rcca", "ocr", "uper")
CHECKS = ("train", "eval", "resume", "cost", "export")
CROP_HW = (64, 97)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--head", nargs="*", choices=HEADS, default=list(HEADS))
    args = parser.parse_args()
    print(f"| backbone | head | {' | '.join(CHECKS)} | seconds |")
    print("|---" * (len(CHECKS) + 3) + "|")
    has_failed = False
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder) / "streets", num_train=4, num_val=2, hw=(64, 128))
        for model in args.model:
            for head in args.head:
                began = time.perf_counter()
                results = checked(recipe_of(model, head, Path(folder) / "streets"), Path(folder) / f"{model}-{head}")
                has_failed |= any(result != "ok" for result in results)
                seconds = time.perf_counter() - began
                print(f"| {model} | {head} | {' | '.join(results)} | {seconds:.0f} |", flush=True)
    return int(has_failed)


def recipe_of(model: str, head: str, root: Path) -> Recipe:
    backbone = {"name": "timm", "model": model, **BACKBONES[model]}
    mapping = {
        "model": {"backbone": backbone, "head": {"name": head, "channels": 32}, "aux": None},
        "data": {"name": "streets", "root": str(root), "crop_hw": CROP_HW, "workers": 0},
        "train": {"max_steps": 2, "batch_size": 2, "save_every": 1, "keep_every": 1, "eval_every": None},
        "optim": {"name": "sgd", "lr": 1e-3, "momentum": 0.0},
        "schedule": {"name": "poly"},
        "loss": {"name": "cross_entropy"},
    }
    return compose(mapping, file=f"{model} with {head}")


def checked(recipe: Recipe, folder: Path) -> list[str]:
    """Runs every check and returns a cell for each."""
    checks: Sequence[Callable[[], Any]] = (
        lambda: fit(recipe, folder),
        lambda: evaluate_run(open_run(folder), EvaluationRequest("val")),
        lambda: resume(recipe, folder),
        lambda: cost(recipe, hw=CROP_HW, module="model"),
        lambda: export(folder, folder / "model.onnx"),
    )
    return [cell(check) for check in checks]


def cell(check: Callable[[], Any]) -> str:
    try:
        check()
    except SegnlError as err:
        return str(err)
    except Exception as err:  # a bug, to be seen in the table
        return f"{type(err).__name__}: {' '.join(str(err).split())[:300]}"
    return "ok"


def resume(recipe: Recipe, folder: Path) -> None:
    """Trains from the checkpoint of step 1 again and compares with the weights that were there."""
    before = open_checkpoint(folder).model
    checkpoints_of(folder)[0].unlink()
    fit(recipe, folder)
    after = open_checkpoint(folder).model
    different = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
    if different:
        raise SegnlError(f"{len(different)} of {len(before)} tensors differ, {different[0]} first")


if __name__ == "__main__":
    sys.exit(main())
