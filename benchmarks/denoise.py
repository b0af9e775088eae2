"""Non-local means by segnl, OpenCV and scikit-image at equal settings: PSNR, time and memory, in one interleaved run.

./run.sh bench denoise [--data data/camvid] [--frames 3] [--rounds 3] [--hw 720x960] [--out FILE]

Frames of CamVid's validation set with Gaussian noise of 10, 20 and 40 grey levels; patches of 7x7, a search window of
21x21, strength = the noise's standard deviation, one thread. scikit-image (fast mode) is left out where it is not
installed. All weight the pixels of a patch alike, but for "segnl gaussian"; "segnl max" gives the centre the largest of
the other weights.
"""

import argparse
import importlib.util
import os
import statistics
import sys
from pathlib import Path

from denoise_cases import psnr
from timing import Contestant, interleaved, peak_mib, with_ratios, write_result

from segnl.core.environment import git_state, machine, versions

ROOT = Path(__file__).resolve().parent.parent
SIGMAS = (10, 20, 40)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "camvid")
    parser.add_argument("--frames", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hw", default="720x960", help="of the timed image")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "denoise" / "cpu.json")
    args = parser.parse_args()
    everything = sorted((args.data / "images" / "val").iterdir())
    frames = everything[:: max(1, len(everything) // args.frames)][: args.frames]
    names = ["segnl", "segnl gaussian", "segnl max", "opencv"]
    if importlib.util.find_spec("skimage"):
        names.append("scikit-image")
    load_before, scores = os.getloadavg()[0], {}
    for sigma in SIGMAS:
        cases = [{"image": str(frame.resolve()), "sigma": sigma} for frame in frames]
        scores[sigma] = {name: statistics.mean(psnr(name, case) for case in cases) for name in ["noisy", *names]}
        print(sigma, {name: round(value, 2) for name, value in scores[sigma].items()}, flush=True)
    case = {"image": str(frames[0].resolve()), "sigma": 20, "hw": [int(side) for side in args.hw.split("x")]}
    warm_up = {**case, "hw": [48, 64]}
    contestants = {name: Contestant(name, sys.executable, "denoise_cases", 1) for name in names}
    seconds = interleaved(contestants, case, args.rounds)
    for contestant in contestants.values():
        contestant.close()
    peaks = {name: peak_mib(name, sys.executable, "denoise_cases", 1, case, warm_up) for name in names}
    result = {
        "frames": [frame.name for frame in frames],
        "psnr_db": scores,
        "hw": case["hw"],
        "seconds": with_ratios(seconds, "seconds"),
        "peak_mib": with_ratios(peaks, "peak_mib"),
        "threads": 1,
        "rounds": args.rounds,
        "load_before": load_before,
        "machine": machine(),
        "versions": versions(),
        **git_state(ROOT),
    }
    write_result(args.out, result)
    for name in names:
        print(f"{name:20s} {seconds[name].get('seconds')} s, {peaks[name].get('peak_mib')} MiB")


if __name__ == "__main__":
    main()
