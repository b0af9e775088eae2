"""Training time of the arena with a frozen backbone's maps kept in a file, and computed in every step.

./run.sh bench features --root data/camvid [--weights FILE] [--images 24] [--rounds 5] [--out FILE]
./run.sh bench features --root data/camvid [--weights FILE] --whole [--heads NAME ...] [--seeds 1] [--steps 100]

Every head of configs/compare/arena_camvid.yaml takes the same steps both ways, in one process on one thread, in turns
that change their order every round. A step includes its batch: read and cropped there, read from the file here. Also
measured: the time of a view's maps, which the study pays once. Seconds are of the processor, which other programs
disturb less. The total is that of the study's steps, with its heads, seeds and views.

--whole trains runs of the study from their beginning to their checkpoint instead, first with the maps kept, their
computation included, then with the maps computed: all that interleaved steps leave out, such as building networks,
logs and files. What the rest of the machine does meanwhile does not fall on both sides alike, so it wants quiet cores.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from command import ROOT
from timing import write_result

from segnl.core.distributed import SINGLE_PROCESS
from segnl.core.environment import git_state, machine, versions
from segnl.data.base import SegmentationData
from segnl.data.loader import BatchPlan, train_batches
from segnl.data.sample import Batch
from segnl.data.transforms import TrainTransform
from segnl.runs.build import build_data
from segnl.runs.recipe import Recipe
from segnl.studies.run import compute_features, train_all
from segnl.studies.study import Study, load_study
from segnl.training.features import FeatureFile
from segnl.training.fit import Training

STUDY = ROOT / "configs" / "compare" / "arena_camvid.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/camvid"), help="the folder of CamVid")
    parser.add_argument("--weights", default="imagenet", help="of the backbone; another file changes no time")
    parser.add_argument("--images", type=int, default=24, help="training images whose maps are kept (default 24)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--whole", action="store_true", help="time whole runs instead of interleaved steps")
    parser.add_argument("--heads", nargs="*", help="with --whole: of the study (default: all)")
    parser.add_argument("--seeds", type=int, default=1, help="with --whole: seeds of each head (default 1)")
    parser.add_argument("--steps", type=int, default=100, help="with --whole: steps of a run (default 100)")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/features/cpu.json, or whole.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out = args.out or ROOT / "benchmarks" / "results" / "features" / ("whole.json" if args.whole else "cpu.json")
    environment = {**git_state(ROOT), "versions": versions(), "machine": machine(), "load_before": os.getloadavg()[0]}
    overrides = [f"data.root={args.root.resolve()}", f"model.backbone.weights={args.weights}"]
    with tempfile.TemporaryDirectory() as folder:
        if args.whole:
            result = whole(Path(folder), overrides, args.heads, args.seeds, args.steps)
            write_result(args.out, result | environment | {"complete": True})
            return
        study = load_study(STUDY, runs=Path(folder), overrides=overrides)
        data = build_data(study.runs[0].recipe, "train")
        num_images = len(data)
        data.sample_ids, data._images, data._labels = (
            values[:: max(1, num_images // args.images)] for values in (data.sample_ids, data._images, data._labels)
        )
        view_s, heads = measure(study, data, Path(folder), args.rounds)
    recipe = study.runs[0].recipe
    views, steps = recipe.data.views or 0, recipe.train.num_steps * len(study.runs) // len(study.heads)
    total = {way: steps * sum(own[way] for own in heads.values()) for way in ("computed", "kept")}
    total["maps"] = view_s * num_images * views
    write_result(
        args.out,
        {
            "study": study.name,
            "heads": heads,
            "view_s": view_s,
            "total_s": total,
            "ratio": total["computed"] / total["kept"],
            "ratio_with_maps": total["computed"] / (total["kept"] + total["maps"]),
            "runs": len(study.runs),
            "steps": recipe.train.num_steps,
            "views": views,
            "num_images": num_images,
            "batch_size": recipe.train.batch_size,
            "crop_hw": recipe.data.crop_hw,
            "rounds": args.rounds,
            "threads": 1,
            **environment,
            "complete": True,
        },
    )


def whole(folder: Path, overrides: list[str], heads: list[str] | None, num_seeds: int, steps: int) -> dict[str, Any]:
    """Trains runs of the study both ways; returns the seconds, of the processor and by the clock, and their ratios."""
    studies = {}
    for way, settings in (("kept", []), ("computed", ["train.features=null"])):
        changes = [*overrides, *settings, f"train.max_steps={steps}", "data.workers=0"]
        study = load_study(STUDY, runs=folder / way, overrides=changes)
        chosen = [run for head in heads or study.heads for run in study.runs_of(head)[:num_seeds]]
        studies[way] = replace(study, runs=tuple(chosen))
    tasks = {"maps": partial(compute_features, studies["kept"].runs)}
    tasks |= {way: partial(train_all, studies[way]) for way in ("kept", "computed")}
    seconds = {}
    for part, task in tasks.items():
        processor, clock = time.process_time(), time.perf_counter()
        task()
        seconds[part] = {"processor": time.process_time() - processor, "clock": time.perf_counter() - clock}
        print(part, seconds[part], flush=True)
    maps, kept, computed = (seconds[part]["processor"] for part in ("maps", "kept", "computed"))
    runs = studies["kept"].runs
    recipe = runs[0].recipe
    return {
        "study": studies["kept"].name,
        "runs": [run.name for run in runs],
        "steps": steps,
        "seconds": seconds,
        "ratio": computed / kept,
        "ratio_with_maps": computed / (kept + maps),
        "views": recipe.data.views,
        "batch_size": recipe.train.batch_size,
        "crop_hw": recipe.data.crop_hw,
        "threads": 1,
    }


def measure(study: Study, data: SegmentationData, folder: Path, rounds: int) -> tuple[float, dict[str, Any]]:
    """Returns the seconds of a view's maps, and by head those of a step with maps computed and with maps kept."""
    recipes = {head: study.runs_of(head)[0].recipe for head in study.heads}
    trainers = {
        head: Training(recipe, folder, SINGLE_PROCESS, data).build_trainer() for head, recipe in recipes.items()
    }
    first = study.heads[0]
    file = FeatureFile(recipes[first], data, trainers[first].model, folder / "features", stages=range(4))
    began = time.process_time()
    file.compute()
    view_s = (time.process_time() - began) / file.num_rows
    heads = {}
    for head, recipe in recipes.items():
        own = FeatureFile(recipe, data, trainers[head].model, folder / "features")
        plan = BatchPlan(0, recipe.train.batch_size, 0, rounds + 1)
        batches = {"computed": _cropped(recipe, data, plan), "kept": own.batches(plan)}
        seconds: dict[str, list[float]] = {way: [] for way in batches}
        for turn in range(rounds + 1):
            for way in sorted(batches, reverse=bool(turn % 2)):
                began = time.process_time()
                trainers[head].step(next(batches[way]))
                seconds[way].append(time.process_time() - began)
        heads[head] = {way: statistics.median(own[1:]) for way, own in seconds.items()}  # the first one warms up
        heads[head]["ratio"] = heads[head]["computed"] / heads[head]["kept"]
        print(head, heads[head], flush=True)
    return view_s, heads


def _cropped(recipe: Recipe, data: SegmentationData, plan: BatchPlan) -> Iterator[Batch]:
    transform = TrainTransform(recipe.data, recipe.model.input.padding_rgb, recipe.train.seed)
    return train_batches(data, transform, plan, workers=0, timeout_s=recipe.data.worker_timeout_s)


if __name__ == "__main__":
    main()
