"""Five of timm's networks under six heads: training step, evaluation, resume, cost, ONNX export; a table of each.

./run.sh extra timm && ./run.sh extra export && ./run.sh bench timm_matrix [--model NAME] [--head NAME] [--out FILE]

Random weights, synthetic streets of 64x128 pixels, crops of 64x97. Every cell is `ok` or the line of the error.
`features`: the stages equal timm's own feature maps to the bit. `resume`: a run that was stopped after step 1 ends with
the weights of one that was not. `export`: onnxruntime gives the network's logits and labels at two sizes, or at the
size of the crop where the graph takes one size only. The table is printed in Markdown. Rows of --out that are all `ok`
are not tried again; delete the file to begin anew.
"""

import argparse
import importlib.metadata
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timing import write_result

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from segnl.convert.export import export  # noqa: E402  the path comes first
from segnl.core.config import JSONDict  # noqa: E402
from segnl.core.environment import git_state, machine, versions  # noqa: E402
from segnl.core.errors import SegnlError  # noqa: E402
from segnl.evaluation.evaluate_run import EvaluationRequest, evaluate_run  # noqa: E402
from segnl.profiling.cost import cost  # noqa: E402
from segnl.runs.build import build_model  # noqa: E402
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
CHECKS = ("features", "train", "eval", "resume", "cost", "export")
COLUMNS = ("backbone", "head", *CHECKS, "seconds")
CROP_HW = (64, 97)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--head", nargs="*", choices=HEADS, default=list(HEADS))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "timm" / "matrix.json")
    args = parser.parse_args()
    rows = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---" * len(COLUMNS) + "|")
    has_failed = False
    for model in args.model:
        for head in args.head:
            row = next((row for row in rows if (row["backbone"], row["head"]) == (model, head)), None)
            if row is None or any(row[check] != "ok" for check in CHECKS):
                rows = [other for other in rows if other is not row]
                row = row_of(model, head)
                rows.append(row)
                write_result(
                    args.out, {"rows": rows, "crop_hw": CROP_HW, "versions": versions_here(), "machine": machine()}
                )
            has_failed |= any(row[check] != "ok" for check in CHECKS)
            print(f"| {' | '.join(str(row[column]) for column in COLUMNS)} |", flush=True)
    return int(has_failed)


def row_of(model: str, head: str) -> JSONDict:
    """Tries a network under a head; returns the row of the table and its commit. Seconds are of the processor."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        streets = Path(folder) / "streets"
        generate(streets, num_train=4, num_val=2, hw=(64, 128))
        results = checked(recipe_of(model, head, streets), Path(folder) / "run")
    seconds = round(time.process_time() - began)
    return {"backbone": model, "head": head, **results, "seconds": seconds, "git": git_state(ROOT)}


def versions_here() -> dict[str, str]:
    return versions() | {name: importlib.metadata.version(name) for name in ("timm", "onnx", "onnxruntime")}


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


def checked(recipe: Recipe, folder: Path) -> dict[str, str]:
    """Runs every check and returns a cell for each."""
    checks: Sequence[Callable[[], Any]] = (
        lambda: features(recipe),
        lambda: fit(recipe, folder),
        lambda: evaluate_run(open_run(folder), EvaluationRequest("val")),
        lambda: resume(recipe, folder),
        lambda: cost(recipe, hw=CROP_HW, module="model"),
        lambda: export(folder, folder / "model.onnx"),
    )
    return {name: cell(check) for name, check in zip(CHECKS, checks, strict=True)}


def cell(check: Callable[[], Any]) -> str:
    try:
        check()
    except SegnlError as err:
        return str(err)
    except Exception as err:  # a bug, to be seen in the table
        return f"{type(err).__name__}: {' '.join(str(err).split())[:300]}"
    return "ok"


def features(recipe: Recipe) -> None:
    """Compares the stages of the backbone with the maps of timm's own network of the same weights."""
    cfg = recipe.model.backbone
    ours = build_model(recipe, 3, is_new=True).backbone.eval()
    stride = {} if cfg.output_stride is None else {"output_stride": cfg.output_stride}
    any_size = {"dynamic_img_size": True} if cfg.model.startswith("vit") else {}
    any_size = {"strict_img_size": False} if cfg.model.startswith("swin") else any_size
    theirs = timm.create_model(cfg.model, features_only=True, out_indices=ours.out_indices, **stride, **any_size).eval()
    theirs.load_state_dict(ours.network.state_dict())
    image = torch.randn(2, 3, 96, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        stages, maps = ours(image), theirs(image)
    if getattr(theirs, "output_fmt", None) == "NHWC":
        maps = [feature_map.permute(0, 3, 1, 2) for feature_map in maps]
    different = [
        number for number, (stage, own) in enumerate(zip(stages, maps, strict=True), 2) if not stage.equal(own)
    ]
    if different:
        raise SegnlError(f"c{different[0]} differs from timm's")


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
