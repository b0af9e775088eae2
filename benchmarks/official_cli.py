"""Cityscapes' own command line, unchanged, beside our scores: the largest difference over every class of two data sets.

python -m venv /tmp/official && /tmp/official/bin/pip install "numpy<2.4" cityscapesscripts
./run.sh bench official_cli --scripts /tmp/official/bin [--out FILE]

It needs an environment of its own, since cityscapesscripts 2.3.0 calls a function that numpy 2.4 removed. Nothing is
patched: `csEvalPixelLevelSemanticLabeling` runs as pip installed it, on PNG files, and its JSON is read.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from timing import write_result

from segnl.core.environment import git_state, machine, versions
from segnl.metrics.cityscapes_official import MAX_DIFFERENCE, CityscapesScores, Frame, count_frames
from segnl.streets.files import generate

ROOT = Path(__file__).resolve().parent.parent
COMMAND = "csEvalPixelLevelSemanticLabeling"
HW = (256, 512)
# Our name of a score: the official names of its values by class and of their mean.
NAMES = {
    "class_iou": ("classScores", "averageScoreClasses"),
    "class_iiou": ("classInstScores", "averageScoreInstClasses"),
    "category_iou": ("categoryScores", "averageScoreCategories"),
    "category_iiou": ("categoryInstScores", "averageScoreInstCategories"),
}
CAR, TRUCK, WALL, GROUND = 26, 27, 12, 6
VOID_IDS = (0, 1, 2, 3, 4, 5, GROUND, 9, 10, 14, 29, 30)  # ids that a submission may hold and that are always a miss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scripts", type=Path, required=True, help=f"the folder that holds {COMMAND}")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "official_cli" / "streets.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        roots = {"six streets": data_set(Path(folder) / "six", 6), "one street": data_set(Path(folder) / "one", 1)}
        result = {name: compare(root, args.scripts / COMMAND) for name, root in roots.items()}
    for name, scores in result.items():
        print(f"{name}: {scores['ours']}; largest difference {scores['largest_difference']}")
    state = {**git_state(ROOT), "versions": versions(), "machine": machine()}
    write_result(args.out, {"official": versions_of(args.scripts), "trees": result, **state, "complete": True})
    if any(scores["largest_difference"] > MAX_DIFFERENCE for scores in result.values()):
        sys.exit(f"more than {MAX_DIFFERENCE} apart")


def data_set(root: Path, num_images: int) -> Path:
    """Makes streets, and in results/ their labels disturbed: moved, trucks for cars, no wall, blocks of ignored ids."""
    generate(root, num_train=1, num_val=num_images, hw=HW)
    for number, path in enumerate(sorted((root / "gtFine/val").glob("*/*_labelIds.png"))):
        rng = np.random.default_rng(number)
        ids = np.roll(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), (2, 3), axis=(0, 1))
        ids[(ids == CAR) & (rng.random(ids.shape) < 0.2)] = TRUCK
        for row, column in rng.integers(0, (HW[0] - 20, HW[1] - 20), (24, 2)):
            ids[row : row + 20, column : column + 20] = rng.choice(VOID_IDS)
        scattered = rng.random(ids.shape) < 0.05
        ids[scattered] = rng.integers(0, 34, int(scattered.sum()))
        ids[ids == WALL] = GROUND
        out = root / "results" / path.parent.name / path.name.replace("gtFine_labelIds", "pred")
        out.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(out), ids)
    return root


def compare(root: Path, command: Path) -> dict[str, Any]:
    """Returns the four means and every class's score by both, and the largest difference of any of them."""
    truth = root / "gtFine" / "val"
    labels, instances = sorted(truth.rglob("*_labelIds.png")), sorted(truth.rglob("*_instanceIds.png"))
    predictions = sorted((root / "results").rglob("*.png"))
    frames = [Frame(*files) for files in zip(predictions, labels, instances, strict=True)]
    ours, theirs = count_frames(frames), run_command(root, command)
    differences = [difference(getattr(ours, kind), theirs[per_name]) for kind, (per_name, _) in NAMES.items()]
    differences += [abs(ours.means()[kind] - theirs[mean]) for kind, (_, mean) in NAMES.items()]
    undefined = sum(math.isnan(value) for kind in NAMES for value in getattr(ours, kind).values())
    return {
        "images": len(frames),
        "scores_compared": sum(len(getattr(ours, kind)) for kind in NAMES) + len(NAMES),
        "undefined_in_both": undefined,
        "largest_difference": max(differences),
        "ours": ours.means(),
        "theirs": {kind: theirs[mean] for kind, (_, mean) in NAMES.items()},
        "per_class": per_class(ours, theirs),
    }


def difference(ours: Mapping[str, float], theirs: Mapping[str, float]) -> float:
    """Returns the largest difference over all names, infinite where only one side is undefined."""
    largest = 0.0
    for name, value in ours.items():
        official = theirs[name]
        if math.isnan(value) != math.isnan(official):
            return math.inf
        largest = max(largest, 0.0 if math.isnan(value) else abs(value - official))
    return largest


def per_class(ours: CityscapesScores, theirs: dict[str, Any]) -> dict[str, dict[str, list[float | None]]]:
    """Returns {score: {class: [ours, theirs]}}, None for undefined."""
    return {
        kind: {
            name: [None if math.isnan(value) else value for value in (own, theirs[per_name][name])]
            for name, own in getattr(ours, kind).items()
        }
        for kind, (per_name, _) in NAMES.items()
    }


def run_command(root: Path, command: Path) -> dict[str, Any]:
    """Returns the JSON that the official command writes about a data set."""
    export = root / "export"
    shutil.rmtree(export, ignore_errors=True)
    export.mkdir()
    environment = {"CITYSCAPES_DATASET": str(root), "CITYSCAPES_RESULTS": str(root / "results")}
    environment |= {"CITYSCAPES_EXPORT_DIR": str(export), "MPLBACKEND": "Agg"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run([command], env={**inherited, **environment}, check=True, stdout=subprocess.DEVNULL)
    return dict(json.loads((export / "resultPixelLevelSemanticLabeling.json").read_text()))


def versions_of(scripts: Path) -> dict[str, str]:
    """Returns the versions in the official command's environment."""
    code = (
        "import json, platform; from importlib.metadata import version as v; "
        "names = ('cityscapesscripts', 'numpy', 'pillow'); "
        "print(json.dumps({'python': platform.python_version(), **{name: v(name) for name in names}}))"
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    output = subprocess.run([scripts / "python", "-c", code], env=inherited, check=True, capture_output=True, text=True)
    return dict(json.loads(output.stdout))


if __name__ == "__main__":
    main()
