"""The context probe of every head in configs/compare/probe.yaml, for docs/probe.md.

./run.sh bench probe [--tasks reach] [--heads A,B] [--seeds 3] [--jobs 1]

Runs are kept in out/bench_probe/, so that a killed benchmark goes on. The result file of a task is written after every
round of seeds and holds what has been measured until then.
"""

import argparse
import json
import os
from pathlib import Path

from timing import write_result

from segnl.core.config import find_config, read_file
from segnl.core.environment import git_state, machine, versions
from segnl.studies.probe import STUDY, ProbeRequest, probe

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="reach")
    parser.add_argument("--heads", default=",".join(read_file(find_config(STUDY))["heads"]))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=ROOT / "out" / "bench_probe")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "probe")
    args = parser.parse_args()
    for num_seeds in range(1, args.seeds + 1):
        for task in args.tasks.split(","):
            load_before = os.getloadavg()[0]
            probe(
                ProbeRequest(args.runs / task, heads=tuple(args.heads.split(",")), num_seeds=num_seeds, tasks=(task,)),
                num_jobs=args.jobs,
            )
            result = json.loads((args.runs / task / "probe.json").read_text())
            del result["tasks"]  # of the one task it is the same again
            state = {"git": git_state(ROOT), "versions": versions(), "machine": machine(), "load_before": load_before}
            write_result(args.out / f"{task}.json", result | state)


if __name__ == "__main__":
    main()
