"""Judges kept studies again from their counts, after a change of the statistics. Nothing is trained or evaluated.

./run.sh python benchmarks/judge.py [STUDY.json ...]    default: all in benchmarks/results/{studies,aa} with a STUDY.npz

Rewrites `pairs` and `verdicts` of each file and prints the verdicts that changed; then run benchmarks/pages.py.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from command import ROOT
from studies_page import heads_of

from segnl.core.files import write_atomic
from segnl.metrics.statistics.comparison import RunCounts, compare_heads
from segnl.metrics.statistics.planning import Looks
from segnl.metrics.statistics.references import reference_intervals
from segnl.studies.table import pairs_dict
from segnl.studies.verdicts import head_verdicts

RESULTS = ROOT / "benchmarks" / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="STUDY.json")
    files = parser.parse_args().files or sorted(
        path for name in ("studies", "aa") for path in (RESULTS / name).glob("*.json") if has_counts(path)
    )
    for path in files:
        result = json.loads(path.read_text(encoding="utf-8"))
        judged = judged_again(result, path.with_suffix(".npz"))
        before = [pair["verdict"] for pair in result["pairs"]]
        after = [pair["verdict"] for pair in judged["pairs"]]
        changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        print(f"{path.name}: {len(changed)} of {len(after)} verdicts changed")
        for old, new in changed:
            print(f"  - {old}\n  + {new}")
        write_atomic(path, json.dumps(judged, indent=1).encode() + b"\n")


def has_counts(path: Path) -> bool:
    return path.with_suffix(".npz").is_file()


def judged_again(result: dict[str, Any], counts: Path) -> dict[str, Any]:
    """Returns the result with new pairs and verdicts. counts: STUDY.npz, written by benchmarks/study.py."""
    with np.load(counts) as arrays:
        runs = zip(arrays["head"], arrays["seed"], arrays["intersection"], arrays["union"], strict=True)
        heads: dict[str, list[RunCounts]] = {name: [] for name in result["heads"]}
        for head, seed, intersection, union in runs:
            heads[str(head)].append(RunCounts(intersection, union, int(seed), arrays["target"]))
        groups = [str(group) for group in arrays["group"]] or None
    control = next(iter(heads))
    is_against_control = len(heads) > 2 and len(result["pairs"]) == len(heads) - 1
    looks = Looks(tuple(result["looks"]["so_far"]), result["looks"]["most"]) if result.get("looks") else None
    pairs = compare_heads(heads, groups=groups, against=control if is_against_control else None, looks=looks)
    references = reference_intervals(heads, [(pair.a, pair.b) for pair in pairs], groups=groups)
    verdicts = head_verdicts(heads_of(result), pairs)
    start = verdicts[-1].partition(",")[0]  # what follows is about single runs and the study, not about its pairs
    last = next((i for i, text in enumerate(result["verdicts"]) if text.startswith(start)), len(result["verdicts"]))
    return result | {
        "pairs": pairs_dict(pairs, references=references),
        "verdicts": [*verdicts, *result["verdicts"][last + 1 :]],
    }


if __name__ == "__main__":
    main()
