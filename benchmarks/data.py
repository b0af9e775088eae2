"""Training samples a second beside torchvision's, albumentations' and mmsegmentation's pipelines.

./run.sh bench data --camvid FOLDER [--peer-python PATH] [--rounds 7] [--batches 4] [--out FILE]

PNG files of 2048x1024, crops of 769x769, factors 0.5 to 2, flip, colour; on one thread and with two loader processes,
one interleaved run. FOLDER is CamVid in the layout of data/README.md; its photographs are enlarged, with noise that
makes the files as large as those of Cityscapes. PATH is the Python of an environment with onedl-mmsegmentation and
onedl-mmcv (and the same torch). See data_cases.py for each side's pipeline.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from timing import Contestant, interleaved, with_ratios, write_result

from segnl.core.environment import git_state, machine, versions
from segnl.streets.files import generate

ROOT = Path(__file__).resolve().parent.parent
HW, CROP_HW = (1024, 2048), (769, 769)
NUM_IMAGES = 4
NOISE = 0.8
"""Standard deviation of the noise on enlarged photographs, in levels of 255."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=Path, default=ROOT / "data" / "camvid")
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=4, help="batches of 4 in a call")
    parser.add_argument("--note", help="what else ran on the machine")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "data" / "cpu.json")
    args = parser.parse_args()
    load_before, results = os.getloadavg()[0], []
    names = ["segnl", "segnl, cached", "torchvision", "albumentations"]
    pythons = {name: sys.executable for name in names}
    if args.peer_python is not None:
        pythons["mmsegmentation"] = str(args.peer_python)
    with tempfile.TemporaryDirectory() as work:
        folders = {"photographs": photographs(args.camvid, Path(work)), "streets": streets(Path(work))}
        contestants = {name: Contestant(name, python, "data_cases", 1) for name, python in pythons.items()}
        for images, folder in folders.items():
            sizes = [path.stat().st_size for path in (folder / "images" / "train").iterdir()]
            for workers in (0, 2):
                case = {"root": str(folder), "crop_hw": CROP_HW, "workers": workers, "batches": args.batches}
                case["ignore_ids"] = [11] if images == "photographs" else []
                answers = interleaved(contestants, case | {"caches": f"{work}/caches"}, args.rounds)
                keys = {name: answer["parts"] for name, answer in answers.items() if "parts" in answer}
                result: dict[str, Any] = {"images": images, "mean_file_mb": float(np.mean(sizes)) / 1e6}
                result |= {"workers": workers, "milliseconds": keys, **with_ratios(answers, "seconds")}
                results.append(result)
                print(images, workers, keys, result.get("cannot", ""), flush=True)
        for contestant in contestants.values():
            contestant.close()
    state = {**git_state(ROOT), "versions": versions(), "machine": machine(), "load_before": load_before}
    setting = {"rounds": args.rounds, "threads": 1, "hw": HW, "crop_hw": CROP_HW, "peers": peer_versions(pythons)}
    note = {"note": args.note} if args.note else {}
    write_result(args.out, {**setting, **state, **note, "results": results, "complete": True})


def photographs(camvid: Path, work: Path) -> Path:
    """Writes enlarged photographs of CamVid's split val and their labels as PNG files; returns their folder."""
    folder, draws = work / "photographs", np.random.default_rng(0)
    labels = {path.stem: path for path in (camvid / "labels" / "val").iterdir()}
    for kind in ("images", "labels"):
        (folder / kind / "train").mkdir(parents=True)
    (folder / "classes.tsv").write_bytes((camvid / "classes.tsv").read_bytes())
    for path in sorted((camvid / "images" / "val").iterdir())[::25][:NUM_IMAGES]:
        enlarged = Image.open(path).convert("RGB").resize(HW[::-1], Image.Resampling.BICUBIC)
        noisy = np.asarray(enlarged) + draws.normal(0, NOISE, (*HW, 3))
        noisy_image = Image.fromarray(np.rint(noisy).clip(0, 255).astype(np.uint8))
        noisy_image.save(folder / "images" / "train" / f"{path.stem}.png")
        label = Image.open(labels[path.stem]).resize(HW[::-1], Image.Resampling.NEAREST)
        label.save(folder / "labels" / "train" / f"{path.stem}.png")
    return folder


def streets(work: Path) -> Path:
    """Generates streets and links them in the layout of data set `folder`; returns that folder."""
    folder, made = work / "streets", work / "made"
    generate(made, num_train=NUM_IMAGES, num_val=1, hw=HW)
    for kind, ends in (("images", "leftImg8bit"), ("labels", "gtFine_labelIds")):
        (folder / kind / "train").mkdir(parents=True)
        for path in sorted(made.glob(f"*/train/*/*_{ends}.png")):
            (folder / kind / "train" / path.name.replace(f"_{ends}", "")).symlink_to(path)
    rows = [f"{i}\tclass {i}\t{i}\t{i}\t{i}" for i in range(34)]
    (folder / "classes.tsv").write_text("\n".join(["index\tname\tr\tg\tb", *rows]) + "\n")
    return folder


def peer_versions(pythons: dict[str, str]) -> dict[str, str]:
    """Returns the versions of the packages beside segnl."""
    import subprocess

    code = "from importlib.metadata import version; import sys; print(version(sys.argv[1]))"
    packages = {
        "mmsegmentation": "onedl-mmsegmentation",
        "albumentations": "albumentations",
        "torchvision": "torchvision",
    }
    return {
        package: subprocess.run([pythons[name], "-c", code, package], capture_output=True, text=True).stdout.strip()
        for name, package in packages.items()
        if name in pythons
    }


if __name__ == "__main__":
    main()
